"""What a finished bundle needs to leave the house: parts list, provenance, signature, deployment formats.

Every module here takes a bundle and gives files; none takes part in a build's decisions.
"""
