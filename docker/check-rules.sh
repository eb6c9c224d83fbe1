#!/bin/sh
# Checks alerts, dashboard, and who is told, with Prometheus' own programs: rules, configuration and the dashboard's queries
# are valid, each alert fires when it should and is silent when it should be (alerts.test.yml), and so are the receivers
# that alertmanager.yml offers to fill in.
set -eu
cd "$(dirname "$0")"

./setup.sh checks
PATH=$PATH:${SIGHTLINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sightline}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quietly() {
    "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
}

# Checks the rules that it names, too.
quietly promtool check config prometheus.yml
quietly promtool test rules alerts.test.yml
/usr/bin/python3 - <<'PYTHON'
import sys
import yaml

cases = {}
for test in yaml.safe_load(open("alerts.test.yml"))["tests"]:
    for case in test["alert_rule_test"]:
        cases.setdefault(case["alertname"], set()).add("fires" if case.get("exp_alerts") else "is silent")
rules = [rule for group in yaml.safe_load(open("alerts.yml"))["groups"] for rule in group["rules"]]
missing = [f"{rule['alert']} {kind}" for rule in rules for kind in ("fires", "is silent")
           if kind not in cases.get(rule["alert"], ())]
unknown = sorted(set(cases) - {rule["alert"] for rule in rules})
if missing or unknown:
    sys.exit(f"error: alerts.test.yml has no case where {missing}, and cases of alerts that do not exist: {unknown}")
PYTHON

/usr/bin/python3 - >"$work/queries.json" <<'PYTHON'
import json
import sys

panels = json.load(open("grafana/dashboards/sightline.json"))["panels"]
taken = {}
for panel in panels:
    at = panel["gridPos"]
    for place in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
        if place in taken or place[0] > 23:
            sys.exit(f"error: the panel {panel['title']!r} lies over {taken.get(place, 'the edge')!r}")
        taken[place] = panel["title"]
queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
# Promtool reads queries in rules only, and without Grafana's variables.
rules = [{"record": f"query_{n}", "expr": query.replace("$__rate_interval", "1m").replace("$__range", "1h")}
         for n, query in enumerate(queries)]
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, sys.stdout)
PYTHON
quietly promtool check rules "$work/queries.json"

# As it stands, and with its examples taken out of their comments.
quietly amtool check-config alertmanager.yml
sed 's/^    # \( *\(- \)\{0,1\}[a-z_]*:.*\)/    \1/' alertmanager.yml >"$work/filled.yml"
quietly amtool check-config "$work/filled.yml"
grep -q '^    webhook_configs:' "$work/filled.yml" || { echo "error: alertmanager.yml offers no receiver" >&2; exit 1; }
echo "valid; each alert fires and is silent as it should"
