// Package wire carries the messages of a migration: numbered frames with a
// checksum, in a session that outlives its TCP connection.
//
// A session delivers each message once and in order, or not at all. The sender
// keeps what the receiver has not confirmed, at most a window of it; when the
// connection breaks, the dialling end dials again, both ends say up to where
// they have come, and the rest is sent once more. Memory is bounded at both
// ends by the window and the largest frame. The format is in
// docs/migration-protocol.md.
//
// The package does not know what messages mean.
package wire
