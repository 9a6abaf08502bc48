"""The commit that a run records, compared with what git says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fgtrain.runs.provenance import commit, versions

GIT = shutil.which("git")
SETTINGS = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", "-c", "core.hooksPath=no"]


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([GIT or "git", *SETTINGS, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(GIT is None, reason="needs git")
def test_the_commit_is_gits_in_a_clone_a_worktree_and_a_submodule(tmp_path: Path):
    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q", "-b", "main")
    for message in ("one", "two"):
        git(main, "commit", "-q", "--allow-empty", "-m", message)
    git(main, "branch", "x/main", "HEAD~1")  # its name ends like main's
    worktree, detached = tmp_path / "worktree", tmp_path / "detached"
    git(main, "worktree", "add", "-q", str(worktree), "-b", "topic/a", "HEAD~1")
    git(main, "worktree", "add", "-q", "--detach", str(detached), "HEAD~1")
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "submodule", "--quiet", "add", str(main), "inner")
    trees = [main, worktree, detached, outer / "inner"]
    for packed in (False, True):
        if packed:
            git(main, "pack-refs", "--all")
        expected = [git(tree, "rev-parse", "HEAD") for tree in trees]
        assert expected[0] != expected[1]
        assert [commit(tree) for tree in trees] == expected


@pytest.mark.parametrize("content", ["", "gitdir: nowhere\n", "\0", "gitdir: \0\n"])
def test_a_tree_without_a_repository_has_no_commit(content: str, tmp_path: Path):
    assert commit(tmp_path) is None
    (tmp_path / ".git").write_text(content)
    assert commit(tmp_path) is None


def test_versions_name_what_decodes_and_stores_images():
    assert {"fgtrain", "python", "torch", "pillow", "h5py", "numpy"} <= versions().keys()
