package frr

import (
	"context"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
)

// Verb is the hidden verb of this program that RunRouter is the body of. Its
// arguments are the Install's root and the router's folder.
const Verb = "frr"

// Namespaces are where a router runs; *fabric.Fabric is one.
type Namespaces interface {
	bgp.Namespaces
	NSPath(node string) string
}

// Start runs a router's FRR, as bgp.Start does a speaker: the first Configure
// starts the daemons. The handle is the same, and so are the events that have
// the same name; see the package's doc.
func Start(ctx context.Context, ns Namespaces, node string, sink event.Sink) (*bgp.Speaker, error) {
	in, err := Find()
	if err != nil {
		return nil, err
	}
	lab := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(ns.NSPath(node)), "vpclab-"), "-"+node)
	return bgp.Start(ctx, ns, node, sink,
		bgp.WithCommand("/proc/self/exe", Verb, in.Root, dirOf(lab, node)),
		bgp.Apart(unix.CLONE_NEWPID|unix.CLONE_NEWNS))
}
