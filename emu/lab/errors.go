package lab

import (
	"fmt"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// NoSuchError says that the lab has nothing of that name.
type NoSuchError struct {
	What string // node, link, interface
	Name string
	Have []string // what there is, for a suggestion
}

func (e *NoSuchError) Error() string {
	s := fmt.Sprintf("no %s %q", e.What, e.Name)
	if near := topo.Nearest(e.Name, e.Have); near != "" {
		return s + fmt.Sprintf("; did you mean %q?", near)
	}
	const shown = 12
	switch n := len(e.Have); {
	case n == 0:
		return s
	case n > shown:
		return s + fmt.Sprintf("; there are %s and %d more", strings.Join(e.Have[:shown], ", "), n-shown)
	}
	return s + "; there are " + strings.Join(e.Have, ", ")
}

// DownError says that a fault keeps a node, or the process of it that is needed,
// down.
type DownError struct{ Node string }

func (e *DownError) Error() string { return e.Node + " is down, by a fault" }
