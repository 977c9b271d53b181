package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm"
)

// A migration by QEMU itself. The agents have one session with each other, in
// which they agree on who runs the VM:
//
//	target   starts a QEMU that waits     ready{where, disk} ─▶
//	source   has its QEMU send, to there
//	         its VM stands for good    ◀─ final{hash, disk}
//	target   has loaded it: Commit, goes on
//	                                      running{at}        ─▶
//	source   in Late modes, sends the rest
//	target   nothing is missing           whole{at}          ─▶
//	either   it will not be               failed{why}
//
// Until final a QEMU that fails lets its VM go on at the source by itself; so the
// target commits after it only. A VM that runs at the target while pages are
// missing (post-copy) is lost when either host is: what QEMU has sent is nowhere
// else. Between the source's last step and the target's Commit it cannot go on at
// the source either, because QEMU does not take post-copy back: if it fails there the
// VM is started anew from its disk. While both QEMUs are there, agents that died and
// connections that were lost are carried on from (nativerest.go).

// channelNative is the agents' session.
const channelNative = 3

// Messages of it.
const (
	nativeReady wire.Type = iota + 1
	nativeFinal
	nativeRunning
	nativeWhole
	nativeFailed
)

// nativeMessage is what they say; each uses what it needs.
type nativeMessage struct {
	Where string        `json:"where,omitempty"`
	Disk  string        `json:"disk,omitempty"` // where it is served, or its hash
	Hash  string        `json:"hash,omitempty"`
	At    event.Mono    `json:"at,omitempty"`
	Stood time.Duration `json:"stood,omitempty"` // at missing pages
	Why   string        `json:"why,omitempty"`
}

func say(ctx context.Context, s wire.Session, t wire.Type, m nativeMessage) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := s.Send(ctx, t, b); err != nil {
		return fmt.Errorf("tell the other host: %w", err)
	}
	return nil
}

// hear waits for the next message, which has to be of a kind.
func hear(ctx context.Context, s wire.Session, want wire.Type) (nativeMessage, error) {
	got, m, err := hearAny(ctx, s)
	if err == nil && got != want {
		err = fmt.Errorf("the other host says %d where %d was due", got, want)
	}
	return m, err
}

// hearAny waits for the next message.
func hearAny(ctx context.Context, s wire.Session) (t wire.Type, m nativeMessage, err error) {
	got, err := s.Receive(ctx)
	if err == nil {
		err = json.Unmarshal(got.Payload, &m)
	}
	if err != nil {
		return 0, m, fmt.Errorf("hear from the other host: %w", err)
	}
	if got.Type == nativeFailed {
		return 0, m, fmt.Errorf("the other host: %s", m.Why)
	}
	return got.Type, m, nil
}

// steer connects to the monitor of a VM's QEMU at this host.
func (v *vm) steer(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, v.monitor()) }

// hashOf is the hash by which memories are compared while both stand.
func hashOf(memory *guest.Memory) string {
	h := sha256.Sum256(memory.Bytes())
	return hex.EncodeToString(h[:])
}

// provesAtPause tells whether the memories are compared while the VM stands.
// Pages that follow it cannot be.
func (m *Move) provesAtPause() bool { return m.Memory.Verify == "pause" && !vmm.Late(m.mode()) }

// NativeSteps are those of migrate.Steps that a migration by QEMU itself comes to.
var NativeSteps = slices.Concat(vmm.OutgoingSteps, nativeSourceSteps, nativeTargetSteps)
