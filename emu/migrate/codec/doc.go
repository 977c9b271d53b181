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
// The package knows nothing of connections, rounds or VMs.
package codec
