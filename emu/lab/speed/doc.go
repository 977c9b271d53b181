// Package speed measures how fast a lab is built and taken away, beside what
// the kernel makes it cost at least and beside what others need for the same.
// It is not a part of vpclab: all of it is in its tests.
//
// Division of labour: star_test.go says what everybody builds. floor_test.go
// builds it with as few system calls as there can be; ours_test.go by
// lab.Apply; library_test.go by plain use of a netlink library; script_test.go
// by a script of `ip -batch`; mininet_test.go by Debian's Mininet.
// contest_test.go lets them take turns in one kernel and counts,
// table_test.go prints, and speed_kernel_test.go has the guard that every test
// run passes and the benchmark of `./run.sh bench build`.
package speed
