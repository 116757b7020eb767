import pytest

from pipeline.errors import ConfigError
from pipeline.pacs import Credentials, read_credentials


@pytest.fixture
def written(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / "key"
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    return write


def test_reads_a_password_with_colons_and_a_token(written):
    assert read_credentials(written("me:pass:word\n")) == Credentials("me", "pass:word")
    token = read_credentials(written("bearer abc.def==\n"))
    assert token.is_token
    assert token.secret == "abc.def=="


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o644, 0o602])
def test_a_file_for_everyone_is_refused(written, mode):
    with pytest.raises(ConfigError, match=r"everyone.*chmod 600"):
        read_credentials(written("me:secret", mode))


@pytest.mark.parametrize("text", ["", "secret", "me:secret\nyou:secret\n", ":secret"])
def test_other_contents_are_refused_and_not_repeated(written, text):
    with pytest.raises(ConfigError, match="Write one line") as raised:
        read_credentials(written(text))
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="key: cannot be read"):
        read_credentials(tmp_path / "key")


def test_a_secret_is_not_shown():
    assert "hunter2" not in repr(Credentials("me", "hunter2"))


@pytest.mark.parametrize("text", ["Bearer tok\u202een", "user:\u809d", "user:pass\x1bword"])
def test_what_http_does_not_send_is_refused(tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="characters that HTTP does not send"):
        read_credentials(path)
