import pytest

from pipeline.cluster import read_cluster
from pipeline.cluster.config import AddressConfig, LocalConfig, SlurmConfig, TlsFiles
from pipeline.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "cluster.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_text


@pytest.mark.parametrize("word", ["tcp://10.0.0.5:8786", "node7:8786", "node-7.example.org:1"])
def test_an_address_is_a_cluster(word):
    assert read_cluster(word) == AddressConfig(address=word)


def test_files_of_each_kind(write):
    assert read_cluster(write("kind: local\nworkers: 2\ngpus: 2\n")) == LocalConfig(
        kind="local", workers=2, gpus=2
    )
    slurm = read_cluster(write("kind: slurm\nmemory: 16GB\npartition: gpu\n"))
    assert isinstance(slurm, SlurmConfig)
    # 16 GB are 16 * 10^9 bytes.
    assert (slurm.memory_bytes, slurm.partition, slurm.workers) == (16 * 10**9, "gpu", 1)
    assert read_cluster(write("kind: ssh\nhosts: [a, b]\n")).hosts == ("a", "b")
    tls = "{ca: ca.pem, cert: c.pem, key: k.pem}"
    address = read_cluster(write(f"kind: address\naddress: tls://h:1\ntls: {tls}\n"))
    assert address.tls == TlsFiles(ca="ca.pem", cert="c.pem", key="k.pem")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("workers: 2", "kind is missing. Write kind: and one of address, local, ssh, slurm"),
        ("kind: cloud", "there is no 'cloud'"),
        ("kind: local\nworker: 2", "Did you mean workers?"),
        ("kind: local\nworkers: 0", "workers: "),
        ("kind: local\nmemory: lots", "write it as 16GB"),
        ("kind: slurm", "memory is missing"),
        ("kind: slurm\nmemory: 1GB\naccount: a b", "account: "),
        ("kind: ssh\nhosts: []", "hosts: "),
        ("kind: address\naddress: somewhere", "tcp://10.0.0.5:8786"),
        ("kind: address\naddress: tls://h:1", "go together"),
        ("kind: address\naddress: tcp://h:1\ntls: {ca: a, cert: b, key: c}", "go together"),
        ("kind: address\naddress: h:1\ntls: {ca: a, cert: b, key: c}", "go together"),
        ("kind: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(write, text, found):
    with pytest.raises(ConfigError) as error:
        read_cluster(write(text))
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("nowhere.yaml", "neither a scheduler's address nor a file"),
        ("http://host:80", "neither a scheduler's address nor a file"),
        ("tls://host:8786", "files of keys are needed"),
    ],
)
def test_other_words_are_refused(word, found):
    with pytest.raises(ConfigError, match=found):
        read_cluster(word)
