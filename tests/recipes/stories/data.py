"""Novels in pieces of 400 characters, encoded with the 512-token vocabulary of llama2.c."""

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

BOS, IGNORED = 1, -100
BYTES = 3
"""The token of byte 0."""
PIECE = 400


class Vocabulary:
    """Byte-pair encoding as llama2.c does it: the pair with the best score is merged first."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        self.scores: list[float] = []
        self.ids: dict[bytes, int] = {}
        place = 4
        while place < len(raw):
            score, length = struct.unpack_from("<fi", raw, place)
            self.ids.setdefault(raw[place + 8 : place + 8 + length], len(self.scores))
            self.scores.append(score)
            place += 8 + length
        self.words = {number: word for word, number in self.ids.items()}

    def encode(self, text: str) -> list[int]:
        tokens = [self.ids[b" "]]
        for character in text:
            word = character.encode()
            tokens += [self.ids[word]] if word in self.ids else [byte + BYTES for byte in word]
        while True:
            merged = [
                (self.scores[number], -place, number)
                for place, (first, second) in enumerate(pairwise(tokens))
                if (number := self.ids.get(self.words.get(first, b"?") + self.words.get(second, b"?"))) is not None
            ]
            if not merged:
                return tokens
            _, place, number = max(merged)
            tokens[-place : -place + 2] = [number]


def pieces(
    text: str, vocabulary: str, start: int, stop: int, batch: int = 4
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yield input_ids [batch, seq] and the tokens that follow them, -100 where there is none."""
    here = Path(__file__).parent
    coder = Vocabulary(here / vocabulary)
    novel = (here / text).read_text(encoding="utf-8")[start:stop].replace("\n", " ")
    encoded = [[BOS, *coder.encode(novel[at : at + PIECE])] for at in range(0, len(novel), PIECE)]
    for at in range(0, len(encoded), batch):
        chosen = encoded[at : at + batch]
        length = max(map(len, chosen)) - 1
        ids = np.zeros((len(chosen), length), np.int64)
        labels = np.full((len(chosen), length), IGNORED, np.int64)
        for row, tokens in enumerate(chosen):
            ids[row, : len(tokens) - 1] = tokens[:-1]
            labels[row, : len(tokens) - 1] = tokens[1:]
        yield {"input_ids": ids}, labels
