package replicate

import (
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/codec"
)

const (
	defaultEpoch   = 50 * time.Millisecond
	defaultBatch   = 2 * time.Millisecond
	defaultSilence = 200 * time.Millisecond
	defaultBacklog = 64 << 20
	// looks is how many times in Silence an end looks whether anything has come,
	// and says that it lives where it has said nothing else.
	looks = 8
	// mostWindow is what gates can tell apart, less the epoch that is open and one
	// that is being released.
	mostWindow = 14
)

// RealEpoch is an Epoch for VMs with a kernel of their own: for each checkpoint a
// machine is stopped, the state of its devices saved and all of its memory compared,
// which takes some 40 ms.
const RealEpoch = 250 * time.Millisecond

// remembers says that memory is replicated, and not the disk alone.
func (o *Options) remembers() bool { return o.Mode == Async || o.Mode == Checkpoint }

// gated says that what the VM sends is held.
func (o *Options) gated() bool { return o.Mode == Checkpoint || o.Mode == Pipelined }

// complete checks the options and fills in what the caller left out.
func (o Options) complete() (Options, error) {
	window := map[string]int{Async: 4, Checkpoint: 4, Pipelined: mostWindow, Sync: mostWindow}[o.Mode]
	if window == 0 {
		return o, fmt.Errorf("mode %q of replication: expected %s, %s, %s or %s", o.Mode, Async, Checkpoint, Pipelined, Sync)
	}
	if o.Window == 0 {
		o.Window = window
	}
	if o.Window < 1 || o.Window > mostWindow {
		return o, fmt.Errorf("replication: a window of %d epochs: expected 1 to %d", o.Window, mostWindow)
	}
	if o.Epoch == 0 {
		o.Epoch = defaultEpoch
		if !o.remembers() {
			o.Epoch = defaultBatch
		}
	}
	if o.Silence == 0 {
		o.Silence = max(defaultSilence, 3*o.Epoch)
	}
	if o.Backlog == 0 {
		o.Backlog = defaultBacklog
	}
	if o.Epoch < 0 || o.Silence < 0 || o.Backlog < 0 || o.Verify < 0 {
		return o, fmt.Errorf("replication: epoch %v, silence %v, backlog %d, verify %d: expected none below zero", o.Epoch, o.Silence, o.Backlog, o.Verify)
	}
	if len(o.Encoders) == 0 {
		o.Encoders = []string{"vpclab"}
	}
	return o, nil
}

// codec is the configuration of a pair of encoder and decoder.
func (o *Options) codec(pages int) (codec.Config, error) {
	return codec.Parse(codec.Config{Pages: pages}, o.Encoders)
}

// step calls the hook of the options.
func (o *Options) step(name string) error {
	if o.Step == nil {
		return nil
	}
	if err := o.Step(name); err != nil {
		return &migrate.StepError{Step: name, Err: err}
	}
	return nil
}
