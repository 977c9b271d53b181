package hypervisor

import (
	"context"
	"fmt"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm"
)

// stream is how what one QEMU sends gets to the other: straight, or by way of
// somebody who stands between. Each end has its own; the methods of one are called
// in this order, each once, and close in any case.
type stream interface {
	// incoming is the target's: the URI at which its QEMU is to wait.
	incoming(ctx context.Context) (uri string, err error)
	// reached is the target's, once QEMU waits there: how the source reaches it, in
	// the stream's own words.
	reached(ctx context.Context, in *vmm.Incoming) (where string, err error)
	// outgoing is the source's: the URI to which its QEMU is to send. It may have
	// its say in how, by the options, and steer QEMU by its monitor until close.
	outgoing(ctx context.Context, where string, monitor *qmp.Client, opt *vmm.OutgoingOptions) (uri string, err error)
	// close ends it. What has crossed the wire is in the moving's count by then.
	close() error
}

// native tells whether QEMU itself is to move the VM.
func (m *Move) native() bool { return vmm.Native(m.Memory.Algorithm) }

// mode is the mode of QEMU's that is used, of vmm.Modes.
func (m *Move) mode() string { return m.Memory.Algorithm }

// stream is the one of the migration's algorithm.
func (m *moving) stream() stream { return &direct{moving: m} }

// direct is a TCP connection between the two QEMUs, or several.
type direct struct {
	*moving
	count *sockets // of the source's; nil: there are none
}

func (d *direct) incoming(context.Context) (string, error) {
	return fmt.Sprintf("tcp:%s:0", d.agent.addr), nil
}

func (d *direct) reached(ctx context.Context, in *vmm.Incoming) (string, error) {
	at, err := in.At(ctx)
	return at.String(), err
}

func (d *direct) outgoing(_ context.Context, where string, _ *qmp.Client, opt *vmm.OutgoingOptions) (string, error) {
	if d.count = d.countTo(where); d.count != nil {
		step := opt.Step
		opt.Step = func(name string) error {
			if name == migrate.StepSourcePaused {
				d.count.look() // all its connections are open
			}
			return step(name)
		}
	}
	return "tcp:" + where, nil
}

func (d *direct) close() error {
	if d.count != nil {
		d.count.close()
	}
	return nil
}
