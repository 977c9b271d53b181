package scenarios

import (
	"errors"
	"net"

	"github.com/vpclab/vpclab/emu/traffic"
)

// openShop is a user's side of a process guest on a connection.
func openShop(conn net.Conn, user int) (traffic.Service, error) {
	return nil, errors.New("not there")
}
