#!/usr/bin/env bash
# vpclab: set up what is missing, build, and run.
#
#   ./run.sh                the main job: measure how VPCs are set up, how a VM with users
#                           migrates between two clouds, and how another fails over; draw
#   ./run.sh test           all tests
#   ./run.sh VERB [ARG…]    any verb of vpclab, as in ./run.sh doctor
#   ./run.sh payload        build the program in VMs with a kernel of their own; the build of
#                           vpclab does, too
#   ./run.sh kernel-image   unpack Debian's stock kernel into the cache folder
#   ./run.sh qemu           get QEMU, and the kernel for it to boot
#   ./run.sh guest-qemu     get a QEMU that moves live VMs, and the kernel for them
#   ./run.sh frr            unpack Debian's FRR into the cache folder
#   ./run.sh bench build    how fast labs are built, beside the kernel's own cost and peers
#   ./run.sh bench migration    five algorithms of migration over bandwidths, as tables
#
# As root it installs Debian's package user-mode-linux by apt-get; as an
# ordinary user it unpacks the same package into the cache folder
# (${XDG_CACHE_HOME:-~/.cache}/vpclab). So it does with qemu-system-x86, for
# --kernel qemu, --clock virtual and the tests. FRR is unpacked, whoever asks, for tests
# and for scenarios with routers that run it: nothing is installed, and no
# service is started. So is the QEMU of scenarios with "guest: qemu", where the
# system's own is none that a running VM may be moved with. What is there already
# is left alone.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vpclab
bin=$here/bin/vpclab

say() { printf 'run.sh: %s\n' "$@" >&2; }

# unable MESSAGE…: this environment cannot run it (exit code 3).
unable() {
	printf 'run.sh: %s\n' "$@" >&2
	exit 3
}

# find_go puts a Go tool into PATH, or says how to get one.
find_go() {
	local dir
	for dir in "" /usr/local/go/bin "${HOME:-/nonexistent}/go/bin" "${HOME:-/nonexistent}/sdk/go/bin" /usr/lib/go/bin; do
		if [ -n "$dir" ]; then
			[ -x "$dir/go" ] || continue
			PATH=$dir:$PATH
		fi
		command -v go >/dev/null && break
	done
	local want have
	want=$(awk '$1 == "go" { print $2; exit }' "$here/go.mod")
	command -v go >/dev/null ||
		unable "Go is not installed: vpclab is built with Go $want or newer" \
			"get it from https://go.dev/dl and put its bin folder into PATH"
	# Since 1.21 the go command fetches a newer tool chain by itself.
	have=$(cd / && go env GOVERSION)
	have=${have#go}
	if [ "$(printf '1.21\n%s\n' "$have" | sort -V | head -n 1)" != 1.21 ]; then
		unable "Go $have is too old: want $want (or 1.21 and newer, which fetch it)" \
			"get it from https://go.dev/dl"
	fi
	if [ "$(cd / && go env GOTOOLCHAIN)" = local ] && [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
		unable "Go $have is too old: want $want; GOTOOLCHAIN=local forbids fetching it"
	fi
}

# build_payload makes the program that runs in VMs with a kernel of their own, where
# the build of vpclab finds it. What comes out depends on the source alone, and the
# file is left alone if it is the same.
build_payload() {
	local into=$here/emu/vmm/payload/vpclab-guest
	(cd "$here" && CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$into.$$" ./cmd/vpclab-guest)
	gzip -9nf "$into.$$"
	if cmp -s "$into.$$.gz" "$into.gz"; then
		rm -f "$into.$$.gz"
	else
		mv -f "$into.$$.gz" "$into.gz"
	fi
}

# build makes bin/vpclab. The file is replaced by a rename, so that a running
# lab keeps the program that it was started with.
build() {
	local version
	version=$(git -C "$here" describe --tags --always --dirty 2>/dev/null || echo devel)
	mkdir -p "$here/bin"
	build_payload
	(cd "$here" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o bin/.vpclab.built ./cmd/vpclab)
	if ! cmp -s "$here/bin/.vpclab.built" "$bin"; then
		cp "$here/bin/.vpclab.built" "$bin.$$"
		mv -f "$bin.$$" "$bin"
		say "built bin/vpclab $version"
	fi
}

# have_uml tells whether a User Mode Linux is where vpclab looks for it.
have_uml() {
	local found
	[ -n "${VPCLAB_UML:-}" ] && return
	command -v linux.uml >/dev/null && return
	[ -x /usr/bin/linux.uml ] && return
	for found in "$cache"/uml/*/usr/bin/linux.uml; do
		[ -x "$found" ] && return
	done
	return 1
}

# host_can tells whether this machine's own kernel can carry a lab, so that
# nothing need be installed.
host_can() {
	[ "$(id -u)" = 0 ] || return 1
	[ -e /proc/sys/net/mpls ] || modprobe -q mpls_router 2>/dev/null || return 1
	[ -x "$bin" ] && "$bin" kernel probe >/dev/null 2>&1
}

# get_kernel sees to it that some kernel can carry a lab.
get_kernel() {
	if have_uml || host_can; then
		return
	fi
	[ "$(uname -m)" = x86_64 ] ||
		unable "this kernel cannot carry a lab, and User Mode Linux exists for x86_64 only, not $(uname -m)" \
			"run as root on a kernel with the modules mpls_router, mpls_iptunnel, vrf and sch_netem"
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		install_package
	else
		unpack_package
	fi
}

no_package() {
	unable "cannot get the package user-mode-linux: $1" \
		"unpack Debian's package user-mode-linux by dpkg-deb -x into $cache/uml/1 (usr/bin, usr/lib)," \
		"or set VPCLAB_UML to a User Mode Linux program and VPCLAB_UML_MODULES to its modules"
}

# install_package is root's way: the system's package.
install_package() {
	say "installing Debian's package user-mode-linux (a Linux kernel that runs as an ordinary program)"
	install user-mode-linux || no_package "apt-get install failed"
	have_uml || no_package "the package was installed, but linux.uml is not there"
}

# install PACKAGE: by the system's package manager.
install() {
	export DEBIAN_FRONTEND=noninteractive
	if ! apt-cache show "$1" >/dev/null 2>&1; then
		say "reading the package lists first (apt-get update)"
		apt-get update -qq >&2 || return
	fi
	apt-get install -y -qq --no-install-recommends "$1" >&2 && return
	# The lists may name a version that has been replaced since.
	say "trying again with fresh package lists"
	apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "$1" >&2
}

# have_qemu tells whether a QEMU is where vpclab looks for it.
have_qemu() {
	local found
	[ -n "${VPCLAB_QEMU:-}" ] && return
	command -v qemu-system-x86_64 >/dev/null && return
	for found in {,"$cache"/qemu/*}/usr/bin/qemu-system-x86_64; do
		[ -x "$found" ] && return
	done
	return 1
}

# have_image tells whether there is a kernel for it to boot.
have_image() {
	local found
	[ -n "${VPCLAB_QEMU_KERNEL:-}" ] && return
	for found in "$cache"/kernel/*/boot/vmlinuz-*; do
		[ -r "$found" ] && return
	done
	for found in /boot/vmlinuz-*; do
		[ -r "$found" ] && [ -d "/lib/modules/${found#*vmlinuz-}/kernel" ] && return
	done
	return 1
}

# get_qemu sees to it that there is a QEMU, and a kernel for it to boot.
get_qemu() {
	if ! have_qemu; then
		[ "$(uname -m)" = x86_64 ] || no_qemu "vpclab is process 1 of its machine, and this one is not for x86_64 but $(uname -m)" || return
		command -v apt-get >/dev/null || no_qemu "this system has no apt-get" || return
		if [ "$(id -u)" = 0 ]; then
			say "installing Debian's package qemu-system-x86 (an emulator)"
			install qemu-system-x86 || no_qemu "apt-get install failed" || return
		else
			unpack_qemu || return
		fi
		have_qemu || no_qemu "the package is there, but qemu-system-x86_64 is not" || return
	fi
	have_image || (kernel_image) # which ends its shell where it cannot
}

# unpack_qemu is the way without root, as for FRR.
unpack_qemu() {
	command -v dpkg-deb >/dev/null || no_qemu "this system has no dpkg-deb" || return
	local work status=0
	mkdir -p "$cache/qemu"
	work=$(mktemp -d "$cache/qemu/.work.XXXXXX")
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$work'" EXIT
	say "downloading Debian's package qemu-system-x86 into $cache/qemu (no root, nothing is installed)"
	make_qemu "$work" || status=$?
	rm -rf "$work"
	trap - EXIT
	return $status
}

# make_qemu DIR: unpack below DIR, try, and put in its place.
make_qemu() {
	local version
	private_apt "$1"
	unpack_with_libraries "$1" qemu-system-x86 qemu-system-common qemu-system-data seabios || no_qemu "apt-get download failed" || return
	LD_LIBRARY_PATH=$(libraries "$1/root") "$1/root/usr/bin/qemu-system-x86_64" -accel help >/dev/null ||
		no_qemu "what was unpacked does not run here" || return
	version=$(dpkg-deb -f "$1"/qemu-system-x86_*.deb Version)
	version=${version#*:} # a colon would divide a search path of libraries
	rm -rf "${cache:?}/qemu/$version"
	mv "$1/root" "$cache/qemu/$version"
	say "unpacked qemu-system-x86 $version into $cache/qemu/$version"
}

# no_qemu WHY
no_qemu() {
	say "cannot get QEMU: $1" \
		"unpack Debian's packages qemu-system-x86, qemu-system-common, qemu-system-data and seabios by dpkg-deb -x into $cache/qemu/1," \
		"or set VPCLAB_QEMU to a qemu-system-x86_64 program"
	return 3
}

# needs_qemu ARG…: somebody asks for the qemu kernel, or for virtual time.
needs_qemu() {
	[[ ${VPCLAB_KERNEL:-} = qemu || ${VPCLAB_CLOCK:-} = virtual || " $* " =~ \ --(kernel[=\ ]qemu|clock[=\ ]virtual)\  ]]
}

# have_guest_qemu tells whether there is a QEMU for VMs: named, unpacked, or the
# system's. That of Debian 12 (7.2) hands over wrong memory when a VM that QEMU
# itself translates is moved while it writes. Whether a newer one does is not for
# its number to say: vpclab tries it before it is trusted. From 9.1 on a QEMU stays
# when what is to come to it fails (exit-on-error of migrate-incoming) and can tell
# why; older ones know no such argument.
have_guest_qemu() {
	local found version
	[ -n "${VPCLAB_GUEST_QEMU:-}" ] && return
	for found in "$cache"/guest-qemu/*/usr/bin/qemu-system-x86_64; do
		[ -x "$found" ] && return
	done
	found=$(command -v qemu-system-x86_64) || return
	version=$("$found" --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
	[ "$(printf '9.1\n%s\n' "${version:-0}" | sort -V | head -n 1)" = 9.1 ]
}

# needs_guest_qemu FILE: the scenario has VMs with a kernel of their own.
needs_guest_qemu() {
	grep -qE '^[^#]*guest: *"?qemu' "$1"
}

# get_guest_qemu unpacks a QEMU for VMs into the cache folder, unless there is
# one, and sees to their kernel. Nothing is installed, whoever asks.
get_guest_qemu() {
	if ! have_guest_qemu; then
		[ "$(uname -m)" = x86_64 ] || no_guest_qemu "its VMs are machines for x86_64, and this one is for $(uname -m)" || return
		command -v apt-get >/dev/null || no_guest_qemu "this system has no apt-get" || return
		command -v dpkg-deb >/dev/null || no_guest_qemu "this system has no dpkg-deb" || return
		local work status=0
		mkdir -p "$cache/guest-qemu"
		work=$(mktemp -d "$cache/guest-qemu/.work.XXXXXX")
		# shellcheck disable=SC2064 # the folder of now
		trap "rm -rf '$work'" EXIT
		make_guest_qemu "$work" || status=$?
		rm -rf "$work"
		trap - EXIT
		[ $status = 0 ] || return $status
	fi
	have_image || (kernel_image) # which ends its shell where it cannot
}

# make_guest_qemu DIR: unpack below DIR, try, and put in its place.
make_guest_qemu() {
	local version codename
	private_apt "$1"
	codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || true
	if [ "$codename" = bookworm ]; then
		backports "$1" "$codename" || return
	fi
	say "downloading Debian's package qemu-system-x86${codename:+ for $codename} into $cache/guest-qemu (no root, nothing is installed)"
	unpack_with_libraries "$1" qemu-system-x86 qemu-system-common qemu-system-data seabios || no_guest_qemu "apt-get download failed" || return
	LD_LIBRARY_PATH=$(libraries "$1/root") "$1/root/usr/bin/qemu-system-x86_64" -accel help >/dev/null ||
		no_guest_qemu "what was unpacked does not run here" || return
	version=$(dpkg-deb -f "$1"/qemu-system-x86_*.deb Version)
	version=${version#*:} # a colon would divide a search path of libraries
	rm -rf "${cache:?}/guest-qemu/$version"
	mv "$1/root" "$cache/guest-qemu/$version"
	say "unpacked qemu-system-x86 $version into $cache/guest-qemu/$version"
}

# backports DIR CODENAME: the apt of DIR reads Debian's backports too, and takes
# them first. It reads no other source than Debian's release beside them, from
# the mirror that the system uses.
backports() {
	local key=/usr/share/keyrings/debian-archive-keyring.gpg mirror
	[ -r "$key" ] || no_guest_qemu "Debian's keys are not in $key (package debian-archive-keyring)" || return
	# shellcheck disable=SC2016 # apt's variable
	mirror=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $2" "Origin: Debian" 2>/dev/null | sed -n 1p) || true
	mkdir -p "$1/sources"
	cat >"$1/sources/debian.sources" <<-SOURCES
		Types: deb
		URIs: ${mirror:-http://deb.debian.org/debian}
		Suites: $2 $2-backports
		Components: main
		Signed-By: $key
	SOURCES
	cat >>"$1/apt.conf" <<-CONF
		Dir::Etc::SourceList "/dev/null";
		Dir::Etc::SourceParts "$1/sources";
	CONF
	say "reading the package lists of $2-backports, in a private folder"
	apt-get -c "$1/apt.conf" update -qq >&2 || no_guest_qemu "apt-get update failed" || return
	# Only now: apt refuses a release that its lists do not know.
	echo "APT::Default-Release \"$2-backports\";" >>"$1/apt.conf"
}

# no_guest_qemu WHY
no_guest_qemu() {
	say "cannot get a QEMU for VMs: $1" \
		"unpack qemu-system-x86, qemu-system-common, qemu-system-data and seabios of Debian 13 or of bookworm-backports by dpkg-deb -x into $cache/guest-qemu/1," \
		"or set VPCLAB_GUEST_QEMU to a qemu-system-x86_64 program"
	return 3
}

# kernel_image unpacks Debian's stock kernel into the cache folder, for those
# who boot it in QEMU. It installs nothing, whoever asks.
kernel_image() {
	local image have
	for have in "$cache"/kernel/*/boot/vmlinuz-*; do
		[ -e "$have" ] && say "kernel image: $have" && return
	done
	local work version deb
	mkdir -p "$cache/kernel"
	work=$(mktemp -d "$cache/kernel/.work.XXXXXX")
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$work'" EXIT
	private_apt "$work"
	image=$(stock_image "$work")
	if [ -z "$image" ]; then
		say "reading the package lists first, in a private folder"
		apt-get -c "$work/apt.conf" update -qq >&2 || unable "apt-get update failed"
		image=$(stock_image "$work")
	fi
	[ -n "$image" ] || unable "the package lists know no linux-image-amd64: is this Debian for x86_64?"
	say "downloading Debian's package $image into $cache/kernel (nothing is installed)"
	download "$work" "$image" || unable "apt-get download $image failed"
	for deb in "$work"/linux-image-*.deb; do
		version=$(dpkg-deb -f "$deb" Version)
		dpkg-deb -x "$deb" "$work/root"
		rm -rf "$cache/kernel/$version"
		mv "$work/root" "$cache/kernel/$version"
	done
	rm -rf "$work"
	trap - EXIT
	kernel_image
}

# stock_image DIR: the package that is Debian's kernel of now, by the lists in DIR.
stock_image() {
	apt-cache -c "$1/apt.conf" depends linux-image-amd64 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }' || true
}

# unpack_package is the way without root: the same package, unpacked into the
# cache folder. apt-get works in private folders, with the system's sources.
unpack_package() {
	command -v apt-get >/dev/null || no_package "this system has no apt-get"
	command -v dpkg-deb >/dev/null || no_package "this system has no dpkg-deb"
	local work version deb
	mkdir -p "$cache/uml"
	work=$(mktemp -d "$cache/uml/.work.XXXXXX")
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$work'" EXIT
	say "downloading Debian's package user-mode-linux into $cache/uml (no root, nothing is installed)"
	private_apt "$work"
	download "$work" user-mode-linux || no_package "apt-get download failed"
	for deb in "$work"/user-mode-linux_*.deb; do
		[ -e "$deb" ] || no_package "apt-get downloaded nothing"
		version=$(dpkg-deb -f "$deb" Version)
		dpkg-deb -x "$deb" "$work/root"
		rm -rf "$cache/uml/$version"
		mv "$work/root" "$cache/uml/$version"
		say "unpacked user-mode-linux $version into $cache/uml/$version"
	done
	rm -rf "$work"
	trap - EXIT
}

# download DIR PACKAGE…: fetch packages into DIR, where a private_apt is.
download() {
	local dir=$1
	shift
	(cd "$dir" && apt-get -c "$dir/apt.conf" download -qq "$@" >&2) && return
	say "reading the package lists first, in a private folder"
	apt-get -c "$dir/apt.conf" update -qq >&2 &&
		(cd "$dir" && apt-get -c "$dir/apt.conf" download -qq "$@" >&2)
}

# have_frr tells whether FRR's daemons are where vpclab looks for them.
have_frr() {
	local found
	[ -n "${VPCLAB_FRR:-}" ] && return
	for found in {,"$cache"/frr/*}/usr/{lib/frr,libexec/frr,sbin}/zebra; do
		[ -x "$found" ] && return
	done
	return 1
}

# needs_frr FILE: the scenario has routers that run FRR, or an experiment that
# puts it there.
needs_frr() {
	grep -qE '^[^#]*(routing: *"?frr|kind: *"?routing-peer)' "$1"
}

# get_frr unpacks Debian's FRR into the cache folder, unless there is one.
get_frr() {
	have_frr && return
	command -v apt-get >/dev/null || no_frr "this system has no apt-get" || return
	command -v dpkg-deb >/dev/null || no_frr "this system has no dpkg-deb" || return
	local work status=0
	mkdir -p "$cache/frr"
	work=$(mktemp -d "$cache/frr/.work.XXXXXX")
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$work'" EXIT
	say "downloading Debian's package frr into $cache/frr (nothing is installed)"
	make_frr "$work" || status=$?
	rm -rf "$work"
	trap - EXIT
	return $status
}

# make_frr DIR: unpack below DIR, try, and put in its place.
make_frr() {
	local version
	private_apt "$1"
	unpack_with_libraries "$1" frr || no_frr "apt-get download failed" || return
	LD_LIBRARY_PATH=$(libraries "$1/root") "$1/root/usr/lib/frr/zebra" --version >/dev/null ||
		no_frr "what was unpacked does not run here" || return
	version=$(dpkg-deb -f "$1"/frr_*.deb Version)
	rm -rf "${cache:?}/frr/$version"
	mv "$1/root" "$cache/frr/$version"
	say "unpacked frr $version into $cache/frr/$version"
}

# unpack_with_libraries DIR PACKAGE…: the packages, and the libraries of theirs
# that this system lacks, into DIR/root.
unpack_with_libraries() {
	local dir=$1 wanted=("${@:2}") next package deb
	while [ ${#wanted[@]} != 0 ]; do
		download "$dir" "${wanted[@]}" || return
		next=()
		for package in "${wanted[@]}"; do
			deb=$(find "$dir" -maxdepth 1 -name "${package}_*.deb")
			dpkg-deb -x "$deb" "$dir/root"
			while read -r package; do
				[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
					[ -n "$(find "$dir" -maxdepth 1 -name "${package}_*.deb")" ] || [[ " ${next[*]-} " = *" $package "* ]] || next+=("$package")
			done < <(dpkg-deb -f "$deb" Depends | tr ',' '\n' | sed -n 's/^ *\(lib[^ (|:]*\).*/\1/p' | sort -u)
		done
		wanted=(${next[@]+"${next[@]}"})
	done
}

# libraries ROOT: a LD_LIBRARY_PATH for what was unpacked.
libraries() { find "$1/usr/lib" "$1/lib" -name '*.so.*' -printf '%h\n' 2>/dev/null | sort -u | paste -sd :; }

# no_frr WHY
no_frr() {
	say "cannot get FRR: $1" \
		"unpack Debian's package frr by dpkg-deb -x into $cache/frr/1, or set VPCLAB_FRR to the folder of an unpacked one"
	return 3
}

# private_apt DIR: an apt configuration that writes only below DIR. It begins
# with the system's package lists, where they can be read.
private_apt() {
	local lists=/var/lib/apt/lists
	mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial"
	cp -p "$lists"/*Packages* "$lists"/*InRelease "$1/state/lists/" 2>/dev/null || true
	cat >"$1/apt.conf" <<-CONF
		Dir::State "$1/state";
		Dir::State::Lists "$1/state/lists";
		Dir::State::Status "/var/lib/dpkg/status";
		Dir::Cache "$1/cache";
		Debug::NoLocking "1";
		APT::Sandbox::User "";
	CONF
}

# bench WHAT [FLAG…]: docs/performance.md has the tables. FLAGs of build are those
# of Go's tests and -peers, as in: ./run.sh bench build -test.bench
# 'Build/machines=100$' -peers none; those of the others are those of vpclab run.
bench() {
	case ${1:-} in
	build) bench_build "${@:2}" ;;
	migration) bench_migration "${@:2}" ;;
	real-vms) bench_real_vms "${@:2}" ;;
	*)
		say "bench ${1:-}: the benchmarks are build, migration and real-vms"
		exit 2
		;;
	esac
}

bench_migration() {
	local results status=0
	get_kernel
	results=$(mktemp -d "${TMPDIR:-/tmp}/vpclab-bench.XXXXXX")
	"$bin" run migration-sweep --results "$results" "$@" || status=$?
	"$bin" table --rows workload,rate --column algorithm --metric migration.payload,migration.total,migration.pause "$results"/migration-sweep/* || status=$?
	say "samples and figures are in $results"
	return $status
}

# bench_real_vms moves a VM in QEMU in every way that there is.
bench_real_vms() {
	local results status=0
	get_kernel
	kernel_image
	get_guest_qemu
	results=$(mktemp -d "${TMPDIR:-/tmp}/vpclab-bench.XXXXXX")
	"$bin" run real-vm-peers --results "$results" "$@" || status=$?
	"$bin" table --rows algorithm,rate --column workload --where direction=out --metric migration.bytes "$results"/real-vm-peers/* || status=$?
	"$bin" table --rows algorithm,rate --column workload --metric migration.total,migration.pause,migration.gap,migration.converged,migration.verified "$results"/real-vm-peers/* || status=$?
	say "samples and figures are in $results"
	return $status
}

bench_build() {
	get_kernel
	local work status=0
	work=$(mktemp -d "${TMPDIR:-/tmp}/vpclab-bench.XXXXXX")
	(cd "$here" && CGO_ENABLED=0 go test -c -o "$work/speed.test" ./emu/lab/speed)
	(cd "$here/emu/lab/speed" && "$bin" kernel exec --kernel "${VPCLAB_TEST_KERNEL:-uml}" --memory 4GiB -- \
		"$work/speed.test" -test.run '^$' -test.bench . -test.benchtime 7x -test.timeout 60m "$@") || status=$?
	rm -rf "$work"
	return $status
}

# main_job is the tour: VPCs are set up, a VM migrates, and another fails over,
# in one report.
main_job() { "$bin" run tour; }

main() {
	case ${1:-} in
	kernel-image)
		kernel_image
		return
		;;
	qemu)
		get_qemu
		return
		;;
	guest-qemu)
		get_guest_qemu
		return
		;;
	frr)
		get_frr
		return
		;;
	esac
	find_go
	if [ "${1:-}" = payload ]; then
		build_payload
		return
	fi
	build
	if [ "${1:-}" = test ]; then
		shift
		get_kernel
		get_frr || say "the tests of FRR will be left out"
		get_qemu || say "the tests of QEMU and of virtual time will be left out"
		get_guest_qemu || say "the tests of VMs with a kernel of their own will be left out"
		# shellcheck source=.ci/tests.sh disable=SC1091
		. "$here/.ci/tests.sh"
		run_tests "$@"
		return
	fi
	if [ "${1:-}" = bench ]; then
		bench "${@:2}"
		return
	fi
	case ${1:-} in
	"" | run | deploy)
		needs_qemu "$@" || get_kernel # other verbs need no kernel, or find a running lab
		local arg file
		for arg in "$@"; do
			for file in "$arg" "$here/scenarios/library/$arg.vpclab.yml"; do
				if [ -f "$file" ] && needs_frr "$file"; then
					get_frr
				fi
				if [ -f "$file" ] && needs_guest_qemu "$file"; then
					get_guest_qemu
				fi
			done
		done
		;;
	esac
	if needs_qemu "$@"; then
		get_qemu
	fi
	if [ $# = 0 ]; then
		main_job
		return
	fi
	exec "$bin" "$@"
}

main "$@"
