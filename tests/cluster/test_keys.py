import ssl
import stat

from pipeline.cluster.config import make_keys, security_of


def test_each_call_makes_other_keys_that_only_their_owner_reads(tmp_path):
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        files = make_keys(tmp_path / name)
        made.append(files.key.read_text())
        assert all(
            stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (files.ca, files.cert, files.key)
        )
    assert made[0] != made[1]


def test_they_are_a_pair_that_openssl_takes(tmp_path):
    files = make_keys(tmp_path)
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(str(files.cert), str(files.key))


def test_all_roles_need_them(tmp_path):
    assert security_of(None) is None
    files = make_keys(tmp_path)
    security = security_of(files)
    assert security.require_encryption
    for role in ("client", "scheduler", "worker"):
        found = security.get_tls_config_for_role(role)
        assert found["ca_file"] == str(files.ca)
        assert (found["cert"], found["key"]) == (str(files.cert), str(files.key))
