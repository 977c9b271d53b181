package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/vpclab/vpclab/emu/migrate"
)

// owners is the cloud manager's record: on which host each guest runs, and what
// has been decided in a migration. A decision is written down before it is
// answered, and is never changed.
type owners struct {
	mu      sync.Mutex
	file    *os.File // nil: in memory alone
	torn    bool     // its last line was not written whole
	host    map[string]string
	verdict map[[16]byte]verdict
}

// verdict is what was decided in a migration.
type verdict string

const (
	committed verdict = "committed" // the VM is the target's
	aborted   verdict = "aborted"   // it stays the source's
)

// ownerLine is one line of the record.
type ownerLine struct {
	VM      string   `json:"vm"`
	Host    string   `json:"host,omitempty"` // that it runs on now; "": it has gone
	ID      [16]byte `json:"id,omitzero"`
	Verdict verdict  `json:"verdict,omitempty"`
}

const ownersFile = "owners.jsonl"

// openOwners reads the record in dir, or begins it.
func openOwners(dir string) (*owners, error) {
	o := &owners{host: map[string]string{}, verdict: map[[16]byte]verdict{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ownersFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(f)
	lines.Split(func(b []byte, end bool) (int, []byte, error) {
		if end && len(b) > 0 {
			o.torn = b[len(b)-1] != '\n'
		}
		return bufio.ScanLines(b, end)
	})
	for lines.Scan() {
		var l ownerLine
		if json.Unmarshal(lines.Bytes(), &l) == nil { // else it was being written when its writer died
			o.note(l)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", f.Name(), err), f.Close())
	}
	o.file = f
	return o, nil
}

func (o *owners) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		return nil
	}
	err := o.file.Close()
	o.file = nil
	return err
}

// note takes a line into memory.
func (o *owners) note(l ownerLine) {
	switch {
	case l.Verdict != "":
		o.verdict[l.ID] = l.Verdict
		if l.Verdict == committed {
			o.host[l.VM] = l.Host
		}
	case l.Host == "":
		delete(o.host, l.VM)
	default:
		o.host[l.VM] = l.Host
	}
}

// write makes a line hold. The caller has the lock.
func (o *owners) write(l ownerLine) error {
	if o.file != nil {
		b, err := json.Marshal(l)
		if err == nil && o.torn { // or this one would be part of that
			b = append([]byte{'\n'}, b...)
		}
		if err == nil {
			n := 0
			n, err = o.file.Write(append(b, '\n'))
			o.torn = err != nil && (o.torn || n > 0)
		}
		if err != nil {
			return fmt.Errorf("record whose VM %s is: %w", l.VM, err)
		}
	}
	o.note(l)
	return nil
}

// set records where a guest runs outside of a migration; "": nowhere.
func (o *owners) set(vm, host string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.host[vm] == host {
		return nil
	}
	return o.write(ownerLine{VM: vm, Host: host})
}

// of is the host of a guest; "": it has none.
func (o *owners) of(vm string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.host[vm]
}

// all are the guests by their hosts.
func (o *owners) all() map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string]string, len(o.host))
	for vm, host := range o.host {
		all[vm] = host
	}
	return all
}

// commit gives the VM of a migration to the target's host, unless it has been
// aborted. It may be repeated.
func (o *owners) commit(vm string, id [16]byte, to string) error {
	return o.decide(ownerLine{VM: vm, Host: to, ID: id, Verdict: committed}, migrate.ErrAborted)
}

// abort keeps it at the source's, unless it has been committed.
func (o *owners) abort(vm string, id [16]byte) error {
	return o.decide(ownerLine{VM: vm, ID: id, Verdict: aborted}, migrate.ErrCommitted)
}

func (o *owners) decide(l ownerLine, otherwise error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch o.verdict[l.ID] {
	case l.Verdict:
		return nil
	case "":
		return o.write(l)
	}
	return fmt.Errorf("VM %s: %w", l.VM, otherwise)
}

// decided is what has been decided in a migration; "": nothing yet.
func (o *owners) decided(id [16]byte) verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.verdict[id]
}
