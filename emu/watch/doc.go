// Package watch sees whether the kernel that carries a lab keeps time while
// something is measured on it: it stands still, it wakes processes late, its
// clock jumps, it loses packets that no link was told to lose, it has no memory
// left. What that means for an experiment is for others to say.
//
// Division of labour:
//
//   - watch.go: [Watch], which looks all the time, and [Span], one stretch of it;
//   - pulse.go, pulse_amd64.go, pulse_amd64.s, pulse_other.go: a thread that is
//     woken periodically, before all others, and notes when it was;
//   - beats.go: what its notes say (pure);
//   - counters.go: what the kernel counts, read before and after.
//
// It is for the process that has the experiments done (package scenarios), in
// the lab's kernel. On the one CPU of User Mode Linux, where a system call takes
// 70 µs, it takes about one percent of the time.
//
// No clock but the kernel's own and the processor's counter is read, so that on a
// virtual clock what is seen is the same in every run.
package watch
