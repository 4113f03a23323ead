"""What `cts site check` makes of what a worker's check and HTCondor say."""

import pytest

from cdmtaskservice.executor import checking
from cdmtaskservice.executor.options import CheckOptions, parse
from cdmtaskservice.sites.htcondor.check import CODE_BASE, WORKER_FINDINGS, judge, judge_hold
from test.unit.test_htcondor_ads import CONFIG, ad, held

BITS = [
    checking.TOKEN_UNREADABLE,
    checking.TOKEN_REFUSED,
    checking.NO_SERVICE,
    checking.NO_S3,
    checking.NO_RUNTIME,
    checking.NO_DIRECTORY,
]


def test_both_sides_mean_the_same_by_a_code():
    assert list(WORKER_FINDINGS) == BITS == [1 << n for n in range(len(BITS))]
    assert CODE_BASE == checking.BASE
    assert CODE_BASE + sum(BITS) <= 255


def test_no_code_is_one_that_others_give():
    ours = range(CODE_BASE + 1, CODE_BASE + sum(BITS) + 1)
    signals = [128 + n for n in (1, 2, 3, 6, 9, 11, 13, 14, 15)]
    assert not {0, 1, 2, *range(64, 79), 126, 127, *signals} & set(ours)


@pytest.mark.parametrize("bits", [[1], [2, 8], BITS])
def test_everything_that_is_wrong_is_told_with_its_remedy(bits):
    finding = judge(ad(4, ExitCode=CODE_BASE + sum(bits)))
    assert finding.ok is False
    for bit, (wrong, mend) in WORKER_FINDINGS.items():
        assert (wrong in finding.found) == (mend in str(finding.mend)) == (bit in bits)


def test_other_codes_are_told_in_the_words_for_executors():
    assert judge(ad(4, ExitCode=0)).ok
    assert "Python 3.9" in judge(ad(4, ExitCode=78)).found
    assert "killed by signal 9" in judge(ad(4, ExitBySignal=True, ExitSignal=9)).found


def test_holds():
    missing = judge_hold(held(13, "connection refused"), CONFIG)
    assert "connection refused" in missing.found
    assert "http://cts/x.sh must be reachable" in str(missing.mend)
    assert "`shell` is /bin/bash" in str(judge_hold(held(6), CONFIG).mend)
    assert "(unknown)" in judge_hold(held(4711), CONFIG).found


def test_options_of_the_workers_check():
    given = ["--url", "http://x", "--token-file", "/t", "--job", "j", "--container", "0", "--work-dir", "/w"]
    found = parse(["check", *given], {"CTS_EXECUTOR_S3_URL": "http://s3"})
    assert isinstance(found, CheckOptions)
    assert (found.s3_url, found.run.url) == ("http://s3", "http://x")
