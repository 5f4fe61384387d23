"""nndiff: self-configuring 3D diffusion models that translate medical volumes."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="nndiff",
    version="0.1.0",
    description="Self-configuring 3D diffusion models that translate medical volumes",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["nndiff", "nndiff.*", "dataset_conversion"]),
    package_data={"nndiff": ["py.typed", "demo/model.zip", "demo/model.md"]},
    install_requires=[
        "torch>=2.8",
        "numpy>=1.26",
        "SimpleITK>=2.3",
        "batchgenerators>=0.25.1",
        "scipy>=1.11",
        "pandas>=2.0",
        "tqdm>=4.65",
        "matplotlib>=3.7",
        "safetensors>=0.4.3",
    ],
    extras_require={
        "dicom": ["pydicom>=3.0"],
        "tensorboard": ["tensorboard>=2.15"],
        "cluster": ["distributed>=2024.5", "dask-jobqueue>=0.8.5"],
        "dev": [
            "pydicom>=3.0",
            "distributed>=2024.5",
            "dask-jobqueue>=0.8.5",
            "tensorboard>=2.15",
            "pytest",
            "pytest-xdist",
            "pytest-cov",
            "hypothesis",
            "scikit-image",
            "ruff",
            "mypy",
        ],
        "bench": ["monai>=1.6", "nnunetv2>=2.8", "torchio>=1.2", "scikit-image"],
    },
    entry_points={
        "console_scripts": [
            "nndiff = nndiff.cli.main:main",
            "nndiff_doctor = nndiff.cli.doctor:main",
            "nndiff_convert = dataset_conversion.any_folder:main",
            "nndiff_extract_fingerprint = nndiff.cli.extract_fingerprint:main",
            "nndiff_plan = nndiff.cli.plan:main",
            "nndiff_preprocess = nndiff.cli.preprocess:main",
            "nndiff_plan_and_preprocess = nndiff.cli.plan_and_preprocess:main",
            "nndiff_train = nndiff.cli.train:main",
            "nndiff_tune = nndiff.cli.tune:main",
            "nndiff_predict = nndiff.cli.predict:main",
            "nndiff_evaluate = nndiff.cli.evaluate:main",
            "nndiff_evaluate_generation = nndiff.cli.evaluate_generation:main",
            "nndiff_export_model = nndiff.cli.export_model:main",
            "nndiff_install_model = nndiff.cli.install_model:main",
            "nndiff_find_best_configuration = nndiff.cli.find_best_configuration:main",
            "nndiff_submit = nndiff.cli.submit:main",
            "nndiff_demo = nndiff.cli.demo:main",
        ],
    },
)
