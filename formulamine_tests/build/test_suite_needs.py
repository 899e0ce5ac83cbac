import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from formulamine.build.suite_needs import IMPORT_NAMES_FILE, Import, modules_of, needed, provides, suite_imports


def imports(**files: str) -> dict[str, Import]:
    return suite_imports({f"bench/{name}.py": text.encode() for name, text in files.items()}, "bench")


def test_top_level_modules_are_told_with_the_first_file_that_imports_them() -> None:
    found = imports(
        b="import numpy.linalg as la, scipy\n",
        a="from numpy import array\nclass Time:\n    def setup(self):\n        import pandas\n",
    )
    assert list(found) == ["numpy", "pandas", "scipy"]
    assert found["numpy"] == Import("bench/a.py", is_optional=False)
    assert found["pandas"].path == "bench/a.py"


def test_pythons_own_asvs_and_the_suites_own_modules_are_left_out() -> None:
    text = "import os, asv, asv_runner.benchmarks, bench.common, common\nfrom . import x\nfrom .y import z\nimport deep"
    files = {"bench/a.py": text.encode(), "bench/common.py": b"", "bench/deep/__init__.py": b""}
    assert suite_imports(files, "bench") == {}


@pytest.mark.parametrize(
    ("text", "is_optional"),
    [
        ("try:\n    import x\nexcept ImportError:\n    x = None", True),
        ("try:\n    import x\nexcept (ValueError, ModuleNotFoundError):\n    pass", True),
        ("try:\n    import x\nexcept:\n    pass", True),
        ("try:\n    if a:\n        import x\nexcept Exception:\n    pass", True),
        ("try:\n    import x\nexcept ValueError:\n    pass", False),
        ("try:\n    import x\nfinally:\n    pass", False),
        ("try:\n    pass\nexcept ImportError:\n    import x", False),
        ("try:\n    pass\nexcept ImportError:\n    pass\nelse:\n    import x", False),
        ("try:\n    import x\nexcept ImportError:\n    pass\nimport x", False),
        ("import x", False),
    ],
)
def test_an_import_that_the_suite_goes_on_without_is_optional(text: str, is_optional: bool) -> None:
    assert imports(a=text)["x"].is_optional == is_optional


def test_a_file_that_is_no_python_imports_nothing() -> None:
    assert suite_imports({"bench/a.py": b"\0", "bench/b.py": b"print 1", "bench/c.py": b"\xff"}, "bench") == {}


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("numpy", "NumPy"), ("sklearn", "scikit_learn"), ("yaml", "PyYAML"), ("PIL", "pillow"), ("netCDF4", "netcdf4"),
        ("cv2", "opencv-python-headless"), ("numpy_groupies", "numpy-groupies"),
    ],
)  # fmt: skip
def test_a_module_is_matched_with_its_distribution(module: str, distribution: str) -> None:
    assert provides(distribution, module)
    assert not provides(distribution + "-stubs", module)


def test_modules_that_a_distribution_is_likely_to_provide() -> None:
    assert modules_of("Scikit_Learn") == {"scikit_learn", "sklearn"}
    assert modules_of("numpy") == {"numpy"}


def test_what_is_required_anyway_is_not_taken_from_an_offer() -> None:
    found = imports(a="import sklearn, numpy, yaml, nowhere")
    offers = ["ruamel-yaml", "scikit-learn", "pyyaml", "numpy"]
    assert needed(found, ["numpy"], offers) == {"sklearn": "scikit-learn", "yaml": "pyyaml"}


def test_the_table_of_names_is_plain_and_says_no_more_than_needed() -> None:
    table = tomllib.loads(IMPORT_NAMES_FILE.read_text())["provided_by"]
    for module, names in table.items():
        assert names == [canonicalize_name(one) for one in names]
        assert names != [canonicalize_name(module)]


@given(st.binary(max_size=60))
def test_any_bytes_are_looked_through_without_an_error(content: bytes) -> None:
    suite_imports({"bench/a.py": content}, "bench")
