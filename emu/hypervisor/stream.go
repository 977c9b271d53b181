package hypervisor

import (
	"context"
	"errors"
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
	// tell adds to the report what the stream has measured; it is called last.
	tell(rep *migrate.Report)
}

// native tells whether QEMU itself is to move the VM.
func (m *Move) native() bool { return ByQEMU(m.Memory.Algorithm) }

// mode is the mode of QEMU's that is used, of vmm.Modes.
func (m *Move) mode() string {
	if m.paired() {
		return vmm.PreCopy
	}
	return m.Memory.Algorithm
}

// stream is the one of the migration's algorithm, at the source.
func (m *moving) stream() stream {
	if m.paired() {
		return &nearEnd{moving: m}
	}
	return &direct{moving: m}
}

// stream is the same at the target.
func (t *target) stream() stream {
	if t.paired() {
		return &farEnd{target: t}
	}
	return t.moving.stream()
}

// shut closes the stream of a migration that ended with err. If it went well, the
// VM is the target's, whatever the stream says.
func shut(s stream, err error) error {
	closed := s.close()
	if err == nil && closed != nil {
		return fmt.Errorf("%w: %w", migrate.ErrCommitted, closed)
	}
	return errors.Join(err, closed)
}

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

func (d *direct) tell(*migrate.Report) {}
