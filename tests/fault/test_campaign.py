"""A short fault campaign; `make faults` is the long one."""

from tests.fault.campaign.faults import (
    FAULTS,
    cut_postgresql,
    fill_scratch,
    freeze_past_deletion,
    freeze_worker,
    kill_api,
    kill_group,
    restart_postgresql,
    restart_redis,
    s3_answers_500,
    s3_is_cut,
)
from tests.fault.campaign.points import CANCELLING
from tests.fault.campaign.run import Case, is_possible, run_case
from tests.fault.campaign.stage import open_stage

AT = {
    kill_api: "accepted",
    freeze_worker: "uploaded",
    freeze_past_deletion: "uploading",
    kill_group: CANCELLING,
    fill_scratch: "packaging",
    restart_redis: "accepted",
    restart_postgresql: "uploaded",
    cut_postgresql: "evaluating",
    s3_answers_500: "uploading",
    s3_is_cut: "uploading",
}


def test_no_job_is_lost_doubled_or_stuck(column_name: str) -> None:
    cases = [
        Case(fault, AT[fault.inject])
        for fault in FAULTS
        if fault.inject in AT and column_name in fault.columns
    ]
    assert len(cases) >= 5
    with open_stage(column_name) as stage:
        found = {
            str(case): run_case(stage, case, pause_s=0.0)
            for case in cases
            if is_possible(stage, case)
        }
    assert {case: flaws for case, flaws in found.items() if flaws} == {}
