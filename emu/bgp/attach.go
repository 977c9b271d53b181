package bgp

import (
	"net"
	"reflect"
	"unsafe"

	"github.com/osrg/gobgp/v3/pkg/server"
)

// acceptQueue finds the channel on which srv takes accepted connections.
//
// Why reach inside: GoBGP opens a session by itself only after a timer of one
// to two seconds, drawn at random and not configurable, and waits five seconds
// more after a session was lost. That is longer than everything else that
// setting up a VPC costs, and it would hide what the lab measures. A
// connection that comes in on this queue is used at once, whoever opened it:
// so the PE's speaker dials the reflector itself and puts the connection here,
// as if the reflector had called.
//
// It returns nil where GoBGP has changed; sessions then open by GoBGP's own
// timer. A test fails if the pinned version has no such queue. Valid from
// StartBgp on.
func acceptQueue(srv *server.BgpServer) chan<- *net.TCPConn {
	f := reflect.ValueOf(srv).Elem().FieldByName("acceptCh")
	if !f.IsValid() || f.Type() != reflect.TypeFor[chan *net.TCPConn]() {
		return nil
	}
	return *(*chan *net.TCPConn)(unsafe.Pointer(f.UnsafeAddr()))
}
