// Package trust finds out whether a QEMU may be trusted with moving a VM that
// runs: by moving one.
//
// QEMU 7.2 hands over wrong memory when a guest whose instructions it translates
// writes meanwhile, and 10.0 does not; but a version says little about what a
// distribution made of it. So a small VM that writes all the time, and knows what
// it wrote, is moved live between two processes of the very program, on this
// machine, a few times over. If it then finds one wrong page, or is there no more,
// that QEMU moves no VM of a lab.
//
// That is about QEMU's own live migration: the modes of package vmm, and what is
// built on them. A VM that stands while QEMU hands over the state of its devices,
// and whose memory the engine moves, is not concerned: nothing is written
// meanwhile, and no memory goes through QEMU.
package trust
