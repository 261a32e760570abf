# What the scripts of drift-pipeline and deploy-by-tags have in common: a Carillon and what it starts things at, in a
# temporary directory, and words to tell the story with. Sourced with $here set.
exec 3>&1
work=$(mktemp -d)
started=()

finish() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  rm -rf "$work"
}
trap finish EXIT

say() { printf '\n== %s\n' "$1"; }
show() { # COMMAND...: with its output
  local words="$*"
  printf '$ %s\n' "${words//"$work"/DIR}" >&3
  "$@"
}
until_true() { # WHAT COMMAND...: waits a minute at most
  local what=$1
  shift
  for _ in $(seq 300); do
    if "$@"; then return; fi
    sleep 0.2
  done
  echo "$what did not come to pass; what was logged:" >&2
  tail -n 20 "$work"/*.log >&2
  exit 1
}
carillon() { "$CARILLON_BINARY" "$@"; }
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
ready() { grep -q '^ready url=' "$work/carillon.log"; }
told() { # N: what was started elsewhere, N lines of it
  lines() { [ "$(wc -l <"$work/elsewhere.log")" -ge "$1" ]; }
  until_true "the start of $1 things" lines "$1"
  cat "$work/elsewhere.log"
}

if [ -z "${CARILLON_BINARY:-}" ]; then
  (cd "$here/../.." && go build -o "$work/carillon" ./cmd/carillon)
  CARILLON_BINARY=$work/carillon
fi
(cd "$here/../elsewhere" && go build -o "$work/elsewhere" .)
unset CARILLON_DATA CARILLON_WORKSPACE CARILLON_SUBSCRIPTION CARILLON_RESOURCE_GROUP HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
port=
for candidate in $(seq 28090 28190); do
  port=$candidate
  if ! listening; then break; fi
done
"$work/elsewhere" "127.0.0.1:$port" >"$work/elsewhere.log" 2>&1 &
started+=($!)
until_true "the start of what stands for others" listening
elsewhere=http://127.0.0.1:$port

serve() { # FLAGS...: starts Carillon; by its own name, for a function would be a process before it
  "$CARILLON_BINARY" serve --data "$work/data" --listen 127.0.0.1:0 "$@" >"$work/carillon.log" 2>&1 &
  started+=($!)
  until_true "the start of Carillon" ready
  eval "$(carillon env --data "$work/data")"
}
