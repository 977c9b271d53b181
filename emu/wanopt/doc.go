// Package wanopt carries the live migration of stock QEMUs over a WAN in fewer
// bytes, for hosts where nothing of QEMU may be changed.
//
//	QEMU ── unix socket ──▶ near end ══ WAN ══▶ far end ── unix socket ──▶ QEMU
//	  ▲ QMP: when to stop ────┘
//
// QEMU's stream goes in at the near end and comes out at the far one byte for
// byte. The near end recognises pages of the guest's memory in it, and hands
// their contents to package codec's encoders; all else goes through as it is.
// Nothing is made anew that was not recognised as exactly what the far end would
// make of it, so a stream that is not understood (another version's, several
// connections, compression, or no stream of QEMU's at all) is carried all the
// same, and only less is saved. Both ends hash all bytes, and compare at the end.
//
// Division of labour:
//
//   - contract.go: what can be chosen, and what is measured;
//   - parser.go: what is recognised in QEMU's stream; batch.go: what was
//     recognised and what was not, in order, as one message, and back;
//   - near.go, far.go: the two ends, over sessions of package wire;
//   - stop.go: when to stop the VM, as a state machine without a clock;
//     smart.go: the same through QEMU's monitor.
//
// The package knows nothing of labs, and decides nothing about who owns the VM:
// QEMU does that itself, as it does without the pair between.
package wanopt
