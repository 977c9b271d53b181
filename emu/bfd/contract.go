// Package bfd is Bidirectional Forwarding Detection in asynchronous mode
// (RFC 5880), between neighbours on a link (RFC 5881) and between routers with
// others between them (RFC 5883): each end sends small packets at an agreed
// rate, and who misses some in a row knows that the other end, or the way to it,
// is gone.
//
// Division of labour: packet.go is a packet on the wire; session.go one end of
// one session, without clock and network; group.go all sessions of a router,
// served together; sockets.go how their packets travel. The process that owns a
// Group is package repair's.
//
// What is left out of RFC 5880: authentication, the echo function, demand mode.
package bfd
