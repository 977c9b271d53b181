# shellcheck shell=bash
# The tests of vpclab, sourced by run.sh after it has built bin/vpclab.
#
#   ./run.sh test            everything
#   ./run.sh test NAME…      only these steps: format vet static shell host kernel virtual paper e2e
#
# Every step runs, even after a failure, and the last lines say what passed,
# what failed and what was left out, and why.

# shellcheck disable=SC2154 # here and bin come from run.sh
readonly staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Packages whose tests boot kernels and QEMUs on this machine, with deadlines: they
# run on a clock.
readonly machines='./cmd/vpclab ./emu/kernel ./emu/hypervisor ./emu/vmm/... ./emu/wanopt'
# Packages that touch no kernel: they are tested with the race detector.
readonly pure='./topo/... ./metrics/... ./plots/... ./emu/event/...'
# Packages of many goroutines whose short tests are run with the race detector too.
# All of their tests, with real QEMUs among them, are run without it.
readonly raced='./emu/qmp/... ./emu/vmm/nbd/... ./emu/wanopt/...'

# Two lanes run at the same time, for a lab kernel has one CPU: what they print
# is in the order in which it ended. What runs on a clock and fails is run once
# more when all else has ended and the machine is quiet; the first failure is
# shown and named in the verdict all the same.

logs=     # folder of this run
lane=main # of which the functions below keep the books
passed=0 failed=0 skipped=0 # tests, and steps that are one check
failures=() left_out=() second=() retry=()

# step NAME COMMAND…: one check; its output is shown when it fails.
step() {
	local name=$1 began=$SECONDS status=0
	shift
	"$@" >"$logs/$lane.step" 2>&1 || status=$?
	if [ $status = 0 ]; then
		passed=$((passed + 1))
		printf 'ok    %-42s %3d s\n' "$name" $((SECONDS - began))
	else
		failed=$((failed + 1))
		failures+=("$name")
		printf 'FAIL  %-42s %3d s\n' "$name" $((SECONDS - began))
		sed 's/^/      /' "$logs/$lane.step"
	fi
}

# leave_out WHAT WHY
leave_out() {
	skipped=$((skipped + 1))
	left_out+=("$1: $2")
	printf -- '-     %-42s left out: %s\n' "$1" "$2"
}

# go_test NAME ARG…: `go test ARG…`, its tests counted; what failed is shown.
go_test() {
	local name=$1 p=0 f=1 s=0
	shift
	{ go test -json "$@" 2>&1 || true; } | "$logs/testsum" "$name" 2>"$logs/$lane.totals" || failures+=("$name")
	read -r _ p f s < <(grep '^totals ' "$logs/$lane.totals") || {
		failures+=("$name: no totals")
		f=1
	}
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# patient step|go_test NAME ARG…: a check that runs on a clock. The lab kernel's
# one CPU shares a machine, and now and then a deadline passes while it stands
# still. If it fails, second_tries has it again.
patient() {
	local name=$2 p=$passed f=$failed s=$skipped n=${#failures[@]}
	"$@"
	[ "$failed" != "$f" ] || [ ${#failures[@]} != "$n" ] || return 0
	passed=$p failed=$f skipped=$s
	failures=(${failures[@]+"${failures[@]:0:$n}"})
	second+=("$name")
	retry+=("$(printf '%q ' "$@")")
}

# second_tries runs again what failed, one after the other.
second_tries() {
	local command
	for command in ${retry[@]+"${retry[@]}"}; do
		printf 'again '
		eval "$command"
	done
}

# in_lane NAME COMMAND…: the command as a process of its own, whose books
# merge_lane adds to ours.
in_lane() {
	lane=$1
	shift
	"$@"
	declare -p passed failed skipped failures left_out second retry | sed 's/^declare [^ ]* //' >"$logs/$lane.books"
}

# merge_lane NAME PID: wait for the lane, and take over its books.
merge_lane() {
	local p=$passed f=$failed s=$skipped
	local -a fs=(${failures[@]+"${failures[@]}"}) ls=(${left_out[@]+"${left_out[@]}"}) ss=(${second[@]+"${second[@]}"}) rs=(${retry[@]+"${retry[@]}"})
	if ! wait "$2" || ! [ -e "$logs/$1.books" ]; then
		failures+=("the lane $1 ended before its end")
		failed=$((failed + 1))
		return
	fi
	# shellcheck source=/dev/null
	. "$logs/$1.books"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	failures=(${fs[@]+"${fs[@]}"} ${failures[@]+"${failures[@]}"})
	left_out=(${ls[@]+"${ls[@]}"} ${left_out[@]+"${left_out[@]}"})
	second=(${ss[@]+"${ss[@]}"} ${second[@]+"${second[@]}"})
	retry=(${rs[@]+"${rs[@]}"} ${retry[@]+"${retry[@]}"})
}

gofmt_clean() {
	local files
	files=$(gofmt -l .)
	[ -z "$files" ] || { printf 'not formatted by gofmt:\n%s\n' "$files" && return 1; }
}

# kernel_packages lists the folders whose tests need a lab kernel.
kernel_packages() {
	find . -name '*_kernel_test.go' -printf '%h\n' | sort -u
}

# kernel_tests DIR…: a -run expression for the tests of *_kernel_test.go.
kernel_tests() {
	local names
	names=$(find "$@" -maxdepth 1 -name '*_kernel_test.go' -exec grep -hoE '^func Test[A-Za-z0-9_]*' {} + | sed 's/^func //' | sort -u | paste -sd '|')
	printf '^(%s)$' "$names"
}

test_host() {
	local dirs skip=()
	mapfile -t dirs < <(kernel_packages)
	if [ ${#dirs[@]} != 0 ]; then
		skip=(-skip "$(kernel_tests "${dirs[@]}")") # their turn comes inside
	fi
	# shellcheck disable=SC2086 # a list of patterns
	if ! command -v "$(go env CC)" >/dev/null; then
		leave_out "race detector" "it needs a C compiler (apt-get install gcc)"
		go_test "pure packages" -timeout 300s "${skip[@]}" $pure
	else
		CGO_ENABLED=1 go_test "pure packages, race detector" -race -timeout 300s "${skip[@]}" $pure
		# shellcheck disable=SC2086
		CGO_ENABLED=1 go_test "short tests, race detector" -race -short -timeout 300s "${skip[@]}" $raced
	fi
	local rest
	# shellcheck disable=SC2086
	mapfile -t rest < <(go list ./... | grep -vxF "$(go list $pure $machines)")
	go_test "other packages, on this kernel" -timeout 300s "${skip[@]}" "${rest[@]}"
	# shellcheck disable=SC2086
	patient go_test "packages that start machines" -count=1 -timeout 590s "${skip[@]}" $machines
	go_test "the gate, on an engine made 3 % slower" -timeout 300s -tags slowdown -run '^TestSlowdownIsCaught$' ./emu/migrate
}

test_kernel() {
	local dir
	while read -r dir; do
		patient go_test "$dir, in a lab kernel" -count=1 -timeout 590s -run "$(kernel_tests "$dir")" \
			-exec "timeout -k 10 600 $bin kernel exec --kernel ${VPCLAB_TEST_KERNEL:-uml} --memory 2GiB --" "$dir"
	done < <(kernel_packages)
}

# e2e_run SCENARIO: a whole run, judged by its exit code and its figures.
e2e_run() {
	local out=$logs/results
	rm -rf "$out"
	timeout -k 10 420 "$bin" run "$1" --results "$out" --trials 1 || return
	[ -n "$(find "$out" -name '*.svg')" ] || { echo "no figures in $out" && return 1; }
	[ -n "$(find "$out" -name report.html)" ] || { echo "no report in $out" && return 1; }
}

# e2e_reproduce: the heart of the paper, one trial of each point.
e2e_reproduce() {
	local out=$logs/paper
	rm -rf "$out"
	timeout -k 10 300 "$bin" reproduce cloudnet --quick --experiment table-1 --trials 1 --results "$out"
}

# e2e_reference SCENARIO: on virtual time, where a busy machine cannot be seen,
# a change shows against the results that are kept.
e2e_reference() {
	local out=$logs/virtual
	rm -rf "$out"
	timeout -k 10 600 "$bin" run "$1" --clock virtual --trials 6 --results "$out" --no-plots || return
	"$bin" compare --all --alpha 0.01 --threshold 10% "results/reference/virtual/$1" "$out/$1"
}

test_virtual() {
	local name
	for name in quickstart migration-gate; do
		if have_qemu && have_image; then
			step "vpclab compare virtual/$name" e2e_reference "$name"
		else
			leave_out "vpclab compare virtual/$name" "it needs QEMU and a kernel's image (./run.sh qemu)"
		fi
	done
}

nothing_left() {
	local left
	left=$(pgrep -u "$(id -u)" -f "rootfstype=hostfs.*$logs" || true)
	[ -z "$left" ] || { echo "processes of a kernel are left: $left" && return 1; }
	left=$(find "$logs/home/labs" -mindepth 1 -maxdepth 1 ! -name '.*' 2>/dev/null || true)
	[ -z "$left" ] || { echo "folders of labs are left: $left" && return 1; }
}

test_e2e() {
	local file name
	for file in scenarios/library/*.vpclab.yml; do
		name=$(basename "$file" .vpclab.yml)
		step "vpclab validate $name" "$bin" validate "$file"
		if ! grep -q '^experiments:' "$file"; then
			continue
		elif [[ " migration-sweep replication-cost guests-side-by-side real-vm-peers " = *" $name "* ]]; then
			continue # benchmarks of many minutes
		elif needs_frr "$file" && ! have_frr; then
			leave_out "vpclab run $name" "it needs FRR (./run.sh frr)"
		elif needs_guest_qemu "$file" && ! { have_guest_qemu && have_image; }; then
			leave_out "vpclab run $name" "it needs a QEMU for VMs and their kernel (./run.sh guest-qemu)"
		else
			patient step "vpclab run $name" e2e_run "$name"
		fi
	done
}

# do_step NAME: one of the steps.
do_step() {
	case $1 in
	format) step gofmt gofmt_clean ;;
	vet) step "go vet" go vet ./... ;;
	static) step "staticcheck" go run "$staticcheck" ./... ;;
	shell)
		if command -v shellcheck >/dev/null; then
			step shellcheck shellcheck -x run.sh .ci/run .ci/tests.sh .github/actions/*/gate
		else
			leave_out shellcheck "it is not installed (apt-get install shellcheck)"
		fi
		;;
	host)
		go_test "the summary of tests" ./.ci/testsum
		test_host
		;;
	kernel) test_kernel ;;
	virtual) test_virtual ;;
	paper) patient step "vpclab reproduce cloudnet, table I" e2e_reproduce ;;
	e2e) test_e2e ;;
	esac
}

do_steps() {
	local s
	for s in "$@"; do do_step "$s"; done
}

run_tests() {
	local began=$SECONDS s
	local -a near=() kernel=()
	[ $# != 0 ] || set -- format vet static shell host kernel virtual paper e2e
	for s in "$@"; do
		case $s in
		kernel | virtual | paper) kernel+=("$s") ;;
		format | vet | static | shell | host | e2e) near+=("$s") ;;
		*)
			printf 'run.sh test: no step %s: want format, vet, static, shell, host, kernel, virtual, paper, e2e\n' "$s" >&2
			return 2
			;;
		esac
	done
	cd "$here" || return
	export CGO_ENABLED=0
	logs=$(mktemp -d "${TMPDIR:-/tmp}/vpclab-tests.XXXXXX")
	trap 'rm -rf "$logs"' EXIT
	# Labs of the tests live there, not beside the user's own.
	export VPCLAB_HOME=$logs/home
	go build -o "$logs/testsum" ./.ci/testsum || return
	in_lane near do_steps ${near[@]+"${near[@]}"} &
	local first=$!
	in_lane kernel do_steps ${kernel[@]+"${kernel[@]}"} &
	local other=$!
	merge_lane near $first
	merge_lane kernel $other
	second_tries
	step "nothing is left behind" nothing_left
	verdict "$began"
}

verdict() {
	local x
	printf '\n%d s\n' $((SECONDS - $1))
	for x in ${left_out[@]+"${left_out[@]}"}; do printf 'left out: %s\n' "$x"; done
	for x in ${second[@]+"${second[@]}"}; do printf 'failed at the first try: %s\n' "$x"; done
	for x in ${failures[@]+"${failures[@]}"}; do printf 'failed: %s\n' "$x"; done
	printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
	[ "$failed" = 0 ]
}
