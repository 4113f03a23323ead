from itertools import chain, combinations

import pytest

from cdmtaskservice.auth.principal import Permissions, Principal, RoleNames, SiteKind

NAMES = RoleNames(admin=frozenset({"ADMIN1", "ADMIN2"}))
ROLES = ("ADMIN1", "ADMIN2", NAMES.staff, NAMES.nersc, NAMES.executor, NAMES.refserv)
SUBSETS = [frozenset(s) for s in chain.from_iterable(combinations(ROLES, n) for n in range(len(ROLES) + 1))]


@pytest.mark.parametrize("roles", SUBSETS, ids=lambda r: "+".join(sorted(r)) or "none")
def test_every_combination_of_roles(roles: frozenset[str]) -> None:
    who, may = Principal("alice", roles), Permissions(NAMES)
    staff, nersc = "KBASE_STAFF" in roles, "HAS_NERSC_ACCOUNT" in roles
    assert may.may_submit(who, "htcondor") == staff
    assert may.may_submit(who, "local") == staff
    assert may.may_submit(who, "jaws") == (staff and nersc)
    assert may.is_admin(who) == (staff and nersc and ("ADMIN1" in roles or "ADMIN2" in roles))
    assert may.is_executor(who) == ("CTS_EXTERNAL_EXECUTOR" in roles)
    assert may.is_refserv(who) == ("CTS_REFDATA_SERVICE" in roles)


def test_without_configured_admin_roles_nobody_is_one() -> None:
    assert not Permissions().is_admin(Principal("alice", frozenset(ROLES)))


def test_all_names_are_configurable() -> None:
    may = Permissions(RoleNames(frozenset({"a"}), "s", "n", "e", "r"))
    assert may.is_admin(Principal("x", frozenset({"a", "s", "n"})))
    assert may.is_executor(Principal("x", frozenset({"e"})))
    assert may.is_refserv(Principal("x", frozenset({"r"})))
    old = Principal("x", frozenset(ROLES))
    kinds: tuple[SiteKind, ...] = ("htcondor", "jaws", "local")
    assert not (may.is_executor(old))
    assert not (may.is_refserv(old))
    assert not (any(may.may_submit(old, kind) for kind in kinds))


def test_a_refusal_can_name_what_is_missing() -> None:
    assert Permissions().roles_to_submit("jaws") == {"KBASE_STAFF", "HAS_NERSC_ACCOUNT"}
    assert Permissions().roles_to_submit("htcondor") == {"KBASE_STAFF"}
