// Package codec turns pages into few bytes and back.
//
// An [Encoder] at the source and a [Decoder] at the target walk in step: the
// target's memory, and the cache where there is one, hold after each batch what
// the encoder believes they hold. So a block can be sent as the place where the
// other side has it already. The encoder compares bytes with its own copy before
// it says so: no hash decides about equality, and a guest that builds
// collisions gains nothing (CloudNet, section IV-B1, verifies likewise).
//
// Batches are applied once and in order (package wire sees to it), and each
// carries its number and a checksum of what both sides hold, so that a pair that
// has fallen out of step says so instead of placing wrong bytes.
//
// Division of labour:
//
//   - config.go: what can be chosen; batch.go: header, checksum and step of a
//     batch; runs.go: which pages a batch has;
//   - staged.go, stageddecoder.go: CloudNet's encoders and the plain ones, with
//     cache.go, rle.go (deltas) and compress.go;
//   - own.go, owndecoder.go: vpclab's own, with shadow.go (what the target holds),
//     anchors.go (pieces found anywhere in it), near.go (pieces of a page's old
//     content), list.go (what is written of them) and residue.go (the rest);
//   - redundancy.go, trial.go: what there is to find in a memory, and what an
//     encoder makes of it, for figures;
//   - clock.go: CPU by encoder; arena.go: memory outside of the heap.
//
// The package knows nothing of connections, rounds or VMs.
package codec
