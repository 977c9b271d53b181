// Package bfd is Bidirectional Forwarding Detection in asynchronous mode
// (RFC 5880), between neighbours on a link (RFC 5881) and between routers with
// others between them (RFC 5883).
package bfd
