// Package replicate keeps a standby of a VM in another cloud, and takes over
// there: what one host sends and the other receives. Like package migrate it
// knows pages, blocks and connections, and neither hosts nor networks: it runs
// in a test over a pipe.
//
// It does not decide who may run the VM; package lease does. It says what that
// must know: that the standby is in sync ([Tell].Synced) and may take over from
// then on; that it is lost, and what the VM sends is held until somebody has seen to
// it that it never takes over (Lost); that the primary is silent; and what the
// standby holds ([StandbyEnd].Activate).
//
// The promise: what went out by the gate ([Gate]) rests on an epoch that the
// standby holds whole, and holds after its process was killed.
//
// Division of labour:
//
//   - contract.go: what is asked of a VM, a gate and a place; options.go, steps.go;
//   - primary.go: the primary's run over sessions; sync.go: the copy in the
//     background, of what differs; epochs.go: checkpoints and their pace;
//     staging.go: what is copied while the VM stands; writes.go: the log of
//     writes to the disk in the modes without memory;
//   - standby.go: the other end; undo.go: how a half epoch is taken back;
//     record.go: what is kept of a whole one;
//   - tie.go: what both say to each other on one session, signs of life among
//     it, in the words of messages.go;
//   - tree.go, scrub.go: root hashes, and blocks compared one by one where there can
//     be none.
//
// docs/replication.md has the protocol.
package replicate
