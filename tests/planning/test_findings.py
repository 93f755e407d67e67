from foveal.planning.findings import Finding, in_order, told_once


def finding(case, kind="empty label map", severity="warning"):
    return Finding(kind, severity, f"{case} is empty", "why", "do", (case,))


def test_ten_of_a_kind_are_told_one_by_one():
    findings = [finding(f"c{n}") for n in range(10)]
    assert told_once(findings) == findings


def test_eleven_of_a_kind_are_told_once_with_all_their_cases():
    findings = [finding(f"c{n}") for n in range(11)]
    (summary,) = told_once(findings)
    assert summary.case is None
    assert summary.cases == tuple(f"c{n}" for n in range(11))
    assert summary.what == "empty label map, in 11 cases; c0: c0 is empty"
    assert (summary.severity, summary.remedy) == ("warning", "do")


def test_kinds_and_severities_are_told_apart():
    findings = [finding(f"c{n}") for n in range(11)]
    other_kind = finding("c1", kind="spacing")
    other_severity = finding("c1", severity="error")
    told = told_once([*findings, other_kind, other_severity])
    assert len(told) == 3
    assert other_kind in told
    assert other_severity in told


def test_findings_of_the_data_set_stay_as_they_are():
    whole = Finding("few patients", "warning", "few", "why", "do")
    pair = Finding("same image twice", "error", "a, b", "why", "do", ("a", "b"))
    assert told_once([whole, pair]) == [whole, pair]


def test_the_worst_comes_first_then_the_data_set_then_the_cases_in_order():
    whole = Finding("few patients", "warning", "few", "why", "do")
    mild, bad, first = finding("b"), finding("b", severity="error"), finding("a")
    assert in_order([mild, bad, first, whole], ["a", "b"]) == [bad, whole, first, mild]


def test_json_holds_the_only_case_or_all():
    assert finding("a").as_table()["case"] == "a"
    pair = Finding("same image twice", "error", "a, b", "why", "do", ("a", "b"))
    assert pair.as_table()["case"] is None
    assert pair.as_table()["cases"] == ["a", "b"]
