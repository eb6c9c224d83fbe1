#!/bin/sh
# Fails when the dashboard or an alert names a metric that the code does not export, or asks a histogram's question of
# something that is none: such a panel stays empty for ever, and such an alert never comes.
set -eu
cd "$(dirname "$0")/.."

# In the code a metric is a literal in a call of one of the three macros, on the same line or the next. Those that tests
# make for themselves are called sightline_test_*.
of_kind() {
    git ls-files --cached --others --exclude-standard '*/src/*.rs' | xargs cat | tr '\n' ' ' |
        grep -oE "$1!\( *\"[a-z_0-9]+\"" | grep -oE '"[a-z_0-9]+"' | tr -d '"' | grep -v '^sightline_test_' | sort -u
}
histograms=$(of_kind histogram)
others=$(of_kind '(counter|gauge)')

status=0
named=$(grep -ohE '\b(sightline|process)_[a-z0-9_]+' docker/grafana/dashboards/*.json docker/alerts*.yml | sort -u)
for name in $named; do
    base=${name%_bucket} base=${base%_sum} base=${base%_count}
    if [ "$base" != "$name" ] && printf '%s\n' "$histograms" | grep -qx "$base"; then continue; fi
    if printf '%s\n' "$others" | grep -qx "$name"; then continue; fi
    echo "error: nothing in the code exports $name, which the dashboard or an alert names" >&2
    status=1
done
exit $status
