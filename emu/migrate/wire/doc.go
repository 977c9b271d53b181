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
// The package does not know what messages mean. Division of labour:
//
//   - contract.go: [Session] and [Config]; dial.go, [Open]; listen.go, [Listener];
//     socket.go, [DialTCP] and [ListenTCP];
//   - session.go: what callers of a session meet;
//   - link.go: one connection, its writer and its reader;
//   - ring.go: what has not been confirmed; frame.go and hello.go, the formats.
//
// System calls are dear in User Mode Linux, so an end writes all that it has by
// one, up to 256 KiB; reads up to 1 MiB; confirms once a sixteenth of the window,
// with whatever it sends anyway, and at once only where the other end asks
// (Flush); and reads no clock but where it waits.
package wire
