"""The version of nndiff."""

VERSION = "0.1.0"
