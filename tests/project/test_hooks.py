"""What the build of the documentation does to its pages."""

import runpy
from pathlib import Path

import pytest

HOOKS = runpy.run_path(str(Path(__file__).parents[2] / "docs/hooks.py"))


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://git.example/ann/voices.git", "https://git.example/ann/voices"),
        ("https://ann:secret@git.example/ann/voices", "https://git.example/ann/voices"),
        ("git@git.example:ann/voices.git", "https://git.example/ann/voices"),
        ("ssh://git@git.example/ann/voices.git", "https://git.example/ann/voices"),
        ("/home/ann/voices", None),
        ("", None),
    ],
)
def test_the_site_links_to_the_repository_that_the_checkout_is_of(remote, page):
    assert HOOKS["repository_page"](remote) == page


def test_code_that_draws_a_table_says_how_wide_it_is_and_other_code_is_left():
    plain = '<div class="highlight"><pre><code>ls\n</code></pre></div>'
    table = '<div class="highlight"><pre><span></span><code>$ ls\n┏━━┓\n│ 1│\n</code></pre></div>'
    html = HOOKS["on_page_content"](plain + table)
    assert html.startswith(plain) and 'class="highlight drawn" style="--columns: 4"' in html
