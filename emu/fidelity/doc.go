// Package fidelity measures whether a lab's links, queues, timers and labels
// are what was asked for, on the kernel that carries it: `vpclab calibrate`.
//
// Division of labour:
//
//   - run.go: [Run], the tests one after the other; handler.go: both ends of
//     the daemon's way to it; text.go: the table;
//   - stats.go: the statistics, pure;
//   - tap.go: [tap], what passes an interface, with the kernel's time stamps,
//     read without a system call; gun.go: [gun], packets sent in batches;
//     frame.go: what is in them;
//   - rig.go: the small labs that are measured, as scenarios and plans;
//   - gap.go (F1), rate.go (F2), delay.go (F3), loss.go (F4), path.go (F5),
//     queue.go (F6), isolation.go (F7), timer.go (F8), labels.go (F10),
//     overhead.go (F11), twice.go (F12): a test each. F9, what is watched
//     during every trial of an experiment, is not here;
//   - peer.go: Mininet's links, by the same instruments.
//
// The idea is that of Mininet-HiFi (Handigol et al., CoNEXT 2012): properties
// that any real network has can be checked without knowing the right result.
//
// Both time stamps of a packet come from the kernel, where it comes to the
// node before the link and where it comes off the link. So what a test sees is
// the link, and not how late this process was woken.
package fidelity
