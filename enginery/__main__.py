"""The command line: `enginery …` and `python -m enginery …`."""


def main() -> None:
    from enginery.pipeline.cli.main import cli

    cli.main(prog_name="enginery")


if __name__ == "__main__":
    main()
