"""Maps the folders compiler/, passes/ and backends/ under the namespace package onyxc."""

from setuptools import find_packages, setup

FOLDERS = ("compiler", "passes", "backends")

setup(
    packages=[f"onyxc.{p}" for f in FOLDERS for p in (f, *(f"{f}.{s}" for s in find_packages(f)))],
    package_dir={f"onyxc.{f}": f for f in FOLDERS},
)
