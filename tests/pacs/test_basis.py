from pipeline.pacs.instance import Basis, basis_of


def test_it_is_the_set_of_uids_that_counts():
    # SHA-256 of "1.2\n1.3", by sha256sum.
    expected = "179ab0a8d45bbd1d0dd075030c770e21cbc175611203679865760598121ef01a"
    assert basis_of(["1.3", "1.2"]) == basis_of(["1.2", "1.3", "1.2"]) == Basis(2, expected)
    assert basis_of(["1.2"]) != basis_of(["1.3"])
    assert basis_of([]).num_instances == 0
