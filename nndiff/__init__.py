"""nndiff: self-configuring 3D diffusion models that translate medical volumes.

Floors, imported downward only (tests/test_architecture.py):

    0  words        errors files strict_json paths volume dataset plan registry
    1  mechanisms   imaging/ diffusion/ networks/ metrics/
    2  shared core  assemble prepare statistics memory machine workers
    3  stages       integrity fingerprint planning/ preprocess demo/
    4  commands     cli/
"""

__version__ = "0.1.0"
