#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_units - the unit files as systemd sees them: they parse, the service's exposure stays under the
# ceiling, the user and the directories are made, and each hardening line has its reason above it.
# Usage: check_units.sh [SOURCE_ROOT]. Exits 0, 1, or 77 with a reason where systemd's tools are missing.
set -eu

exposure_max=15       # tenths: 1.5 of 10
agent_exposure_max=12 # it shares network and /tmp with the ranks, which are not its

root=${1:-${srcdir:-.}}
for tool in systemd-analyze systemd-sysusers systemd-tmpfiles; do
    command -v "$tool" >/dev/null || { echo "check_units: no $tool here: skipped"; exit 77; }
done
if ! systemd-analyze security --help 2>/dev/null | grep -q -e --offline; then
    echo "check_units: systemd-analyze is older than 250: skipped"
    exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    echo "check_units: FAILED: $*"
    failures=$((failures + 1))
}

# A stand-in for the installed program, so that ExecStart= names something executable.
mkdir -p "$work/sbin" "$work/units" "$work/image/etc"
printf '#!/bin/sh\n' >"$work/sbin/kvasird"
chmod 755 "$work/sbin/kvasird"

for file in kvasird.socket kvasird.service.in kvasir-agent.service.in kvasird.sysusers.in kvasird.tmpfiles.in; do
    sed -e "s|@sbindir@|$work/sbin|g" -e 's|@sysconfdir@|/etc|g' -e 's|@localstatedir@|/var|g' \
        "$root/systemd/$file" >"$work/units/${file%.in}"
done
if grep -n '@[a-z]*dir@' "$work"/units/*; then fail "unknown substitutions above"; fi

# 1. Both units parse without a word.
words=$(systemd-analyze verify --man=no "$work/units/kvasird.socket" "$work/units/kvasird.service" \
    "$work/units/kvasir-agent.service" 2>&1) ||
    fail "systemd-analyze verify"
if [ -n "$words" ]; then
    echo "$words"
    # Other units of the machine may be reported too; only ours count.
    if echo "$words" | grep -q kvasi; then fail "systemd-analyze verify said the above"; fi
fi

# 2. Exposure. The table is printed for the log; the last line gives the score.
systemd-analyze security --no-pager --offline=true --threshold=$exposure_max \
    "$work/units/kvasird.service" >"$work/security" 2>&1 || fail "exposure is above $exposure_max tenths"
grep -v '✓' "$work/security" || true
systemd-analyze security --no-pager --offline=true --threshold=$agent_exposure_max \
    "$work/units/kvasir-agent.service" >"$work/security" 2>&1 || fail "the agent's exposure is above $agent_exposure_max tenths"
tail -n 1 "$work/security"

# 3. Each setting below the hardening mark follows a comment.
awk '/^# --- hardening/ { on = 1 } /^\[Install\]/ { on = 0 }
     on && /^[A-Z][A-Za-z]*=/ && previous !~ /^#/ { print FILENAME ": no reason: " $0; bad = 1 }
     { previous = $0 } END { exit bad }' "$root/systemd/kvasird.service.in" \
    "$root/systemd/kvasir-agent.service.in" || fail "lines without a reason"

# 4. User and directories, made in an empty image. chown needs root.
if [ "$(id -u)" = 0 ]; then
    systemd-sysusers --root="$work/image" "$work/units/kvasird.sysusers" || fail "systemd-sysusers"
    grep -q '^kvasir:.*:/var/lib/kvasir:.*nologin$' "$work/image/etc/passwd" || fail "no user kvasir"
    systemd-tmpfiles --root="$work/image" --create "$work/units/kvasird.tmpfiles" || fail "systemd-tmpfiles"
    for directory in run/kvasir etc/kvasir var/lib/kvasir/models; do
        [ -d "$work/image/$directory" ] || fail "no /$directory"
    done
    [ "$(stat -c %a "$work/image/var/lib/kvasir")" = 750 ] || fail "mode of /var/lib/kvasir"
else
    echo "check_units: not root: user and directories not tried"
fi

[ "$failures" = 0 ] || exit 1
echo "check_units: good"
