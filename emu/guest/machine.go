package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// machine is a guest's virtual hardware with the workload on it. Its work goes
// through the gate; what a hypervisor does to it goes through ctl, one at a time.
type machine struct {
	spec Spec
	gate gate
	work workload
	app  *app // nil: a standby

	// Changed only while the gate is closed; read inside it.
	memory *Memory // nil: a standby
	disk   *Disk

	appPages []uint32
	clients  clients

	steps, acked atomic.Uint64
	late         atomic.Uint64          // steps that were due and left out
	slack        time.Duration          // how late a step may be without being left out; 0: as late as it gets
	turn         sync.Mutex             // held by a step, and by who compares the memory with what steps wrote
	fault        atomic.Pointer[string] // the first
	where        atomic.Pointer[string] // folder of memory and disk
	standing     atomic.Bool

	ctl      sync.Mutex
	began    event.Mono // of the time since it last stood
	ran      time.Duration
	pauses   uint64
	stood    *stand
	prepared *place

	background sync.WaitGroup
}

// stand is a pause that has not ended.
type stand struct {
	at          event.Mono
	state       []byte
	connections bool // state has them
}

// place is a memory and disk of some host.
type place struct {
	folder string
	memory *Memory
	disk   *Disk
	filled bool // as a VM that is switched on begins
}

func (p *place) close() {
	if p == nil {
		return
	}
	p.memory.Close() // what fails leaves a mapping behind, and no more
	if p.disk != nil {
		p.disk.Close()
	}
}

// newMachine takes over the memory and disk in folder and writes what they hold
// at the start. A disk that a former guest used keeps what it has.
func newMachine(spec Spec, folder string) (*machine, error) {
	work, appPages, err := newWorkload(spec)
	if err != nil {
		return nil, err
	}
	at, err := openPlace(folder, spec)
	if err != nil {
		return nil, err
	}
	m := assemble(spec, work, appPages)
	err = at.memory.Populate()
	if err == nil {
		m.fill(at)
		err = m.begin(at)
	}
	if err != nil {
		at.close()
		return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
	}
	return m, nil
}

// assemble puts together what needs neither memory nor disk.
func assemble(spec Spec, work workload, appPages []uint32) *machine {
	m := &machine{spec: spec, work: work, appPages: appPages}
	m.clients = clients{m: m, port: uint16(spec.Port), open: map[netip.AddrPort]*connection{}}
	return m
}

// fill writes what a memory holds at the start.
func (m *machine) fill(at *place) {
	m.work.fill(at.memory)
	newApp(m.spec.Seed, m.appPages, nil, nil).fill(at.memory)
	at.filled = true
}

// begin takes over a place as a VM does that is switched on.
func (m *machine) begin(at *place) error {
	l, err := openLedger(m.spec, at.disk)
	if err != nil {
		return err
	}
	m.app = newApp(m.spec.Seed, m.appPages, at.disk, l)
	m.memory, m.disk = at.memory, at.disk
	m.memory.takeOver()
	m.where.Store(&at.folder)
	return nil
}

// openPlace opens what a host has of a VM.
func openPlace(folder string, spec Spec) (*place, error) {
	p := &place{folder: folder}
	var err error
	if p.memory, err = OpenMemory(folder); err != nil {
		return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
	}
	if got := int64(len(p.memory.Bytes())); got != spec.Memory {
		p.close()
		return nil, fmt.Errorf("guest %s: memory in %s has %d bytes: want %d", spec.Name, folder, got, spec.Memory)
	}
	if spec.Disk == 0 {
		return p, nil
	}
	p.disk, err = OpenDisk(folder)
	if err == nil && p.disk.Size() != spec.Disk {
		err = fmt.Errorf("disk in %s has %d bytes: want %d", folder, p.disk.Size(), spec.Disk)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
	}
	return p, nil
}

// openLedger recovers the ledger from the disk, or formats a new disk.
func openLedger(spec Spec, disk *Disk) (*ledger, error) {
	if disk == nil {
		return formatLedger(nil, spec.Seed)
	}
	l, err := recoverLedger(disk, spec.Seed)
	if !errors.Is(err, errNoLedger) {
		return l, err
	}
	if err := fillDisk(disk, spec); err != nil {
		return nil, err
	}
	// Last: a disk with a ledger is whole.
	return formatLedger(disk, spec.Seed)
}

// run does the workload until ctx ends.
func (m *machine) run(ctx context.Context) {
	defer m.background.Wait()
	m.ctl.Lock()
	if m.stood == nil {
		m.began = event.Now()
	}
	m.ctl.Unlock()
	tick := m.work.tick()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if m.gate.enter(ctx) != nil {
			return
		}
		ran := m.ran + event.Now().Sub(m.began) // nobody changes them inside the gate
		m.gate.leave()
		due := uint64(ran / tick)
		m.leaveOut(due, tick)
		// Steps are counted from the guest's first start, wherever that was.
		for m.steps.Load()+m.late.Load() < due && ctx.Err() == nil {
			if m.gate.enter(ctx) != nil {
				return
			}
			m.step()
			m.gate.leave()
		}
		timer.Reset(time.Duration(due+1)*tick - ran)
	}
}

// step does one step, inside the gate.
func (m *machine) step() {
	m.turn.Lock()
	defer m.turn.Unlock()
	if err := m.work.step(m.memory); err != nil {
		m.fail(err)
	}
	m.steps.Add(1)
	if m.memory.trace != nil {
		m.memory.trace.tick()
	}
}

// leaveOut gives up steps that are due for longer than slack. A processor that is
// too slow for the workload would otherwise never do anything else again, however
// little its clients ask.
func (m *machine) leaveOut(due uint64, tick time.Duration) {
	if m.slack == 0 {
		return
	}
	behind := due - m.steps.Load() - m.late.Load()
	if most := uint64(m.slack / tick); behind > most {
		m.late.Add(behind - most)
	}
}

// record begins a recording of all writes; end ends it.
func (m *machine) record(path string) (end func() error, err error) {
	w, err := createTrace(path, TraceInfo{m.memory.Pages(), m.work.tick(), m.spec.Workload})
	if err != nil {
		return nil, fmt.Errorf("guest %s: record: %w", m.spec.Name, err)
	}
	m.memory.trace = w
	return w.close, nil
}

// fail notes what the guest found wrong with itself. The first is what counts.
func (m *machine) fail(err error) {
	text := err.Error()
	m.fault.CompareAndSwap(nil, &text)
}

// Pause implements Control.
func (m *machine) Pause(ctx context.Context) (event.Mono, []byte, error) {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	if err := m.stop(ctx); err != nil {
		return 0, nil, err
	}
	if m.stood.state == nil {
		m.stood.state = m.state().encode()
	}
	return m.stood.at, m.stood.state, nil
}

// stop closes the gate, unless it is. ctl is held.
func (m *machine) stop(ctx context.Context) error {
	if m.memory == nil {
		return errStandby
	}
	if m.stood != nil {
		return nil
	}
	at, err := m.gate.close(ctx)
	if err != nil {
		return err
	}
	m.standing.Store(true)
	m.ran += at.Sub(m.began)
	m.pauses++
	m.stood = &stand{at: at}
	return nil
}

// state is what the virtual CPUs hold. The gate is closed.
func (m *machine) state() *cpuState {
	s := &cpuState{
		seed: m.spec.Seed, pages: uint64(m.memory.Pages()), workload: m.spec.Workload,
		pauses: m.pauses, ran: uint64(m.ran), steps: m.steps.Load(), acked: m.acked.Load(),
	}
	m.work.save(s)
	m.app.save(s)
	return s
}

// goOn opens the gate. ctl is held.
func (m *machine) goOn() event.Mono {
	m.stood = nil
	m.standing.Store(false)
	m.began = event.Now()
	m.gate.open()
	return m.began
}

// Resume implements Control.
func (m *machine) Resume(context.Context) (event.Mono, error) {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	switch {
	case m.memory == nil:
		return 0, errStandby
	case m.stood == nil:
		return m.began, nil
	}
	return m.goOn(), nil
}

// Prepare implements Control. On the memory that the guest runs on it
// sends the descriptor of missing pages to another agent.
func (m *machine) Prepare(_ context.Context, folder string, opt AdoptOptions) error {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	if folder == *m.where.Load() {
		return m.serveMissing(opt)
	}
	if opt.Boot && m.memory != nil {
		return fmt.Errorf("prepare %s for a boot: the guest runs already, on %s", folder, m.memory.Folder())
	}
	return m.prepareLocked(folder, opt)
}

func (m *machine) serveMissing(opt AdoptOptions) error {
	if opt.Missing == "" || m.memory.absent == nil {
		return nil
	}
	return m.memory.absent.serve(opt.Missing)
}

func (m *machine) prepareLocked(folder string, opt AdoptOptions) error {
	m.prepared.close()
	m.prepared = nil
	p, err := openPlace(folder, m.spec)
	if err != nil {
		return err
	}
	if opt.Missing == "" {
		err = p.memory.Populate()
	} else {
		err = p.memory.awaitMissing(opt.Missing)
	}
	if err != nil {
		p.close()
		return err
	}
	if opt.Boot {
		m.fill(p)
	}
	m.prepared = p
	return nil
}

// Adopt implements Control.
func (m *machine) Adopt(_ context.Context, folder string, state []byte, opt AdoptOptions) (event.Mono, error) {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	if m.stood == nil {
		if folder == m.memory.Folder() {
			return m.began, m.serveMissing(opt) // asked again
		}
		return 0, fmt.Errorf("adopt %s: the guest runs on %s", folder, m.memory.Folder())
	}
	if folder == *m.where.Load() {
		return 0, fmt.Errorf("adopt %s: the guest stands there: want resume", folder)
	}
	s, err := m.checkState(state)
	if err != nil {
		return 0, fmt.Errorf("adopt %s: %w", folder, err)
	}
	if p := m.prepared; p == nil || p.folder != folder || p.memory.absent == nil && opt.Missing != "" {
		if err := m.prepareLocked(folder, opt); err != nil {
			return 0, err
		}
	}
	if opt.Missing == "" { // prepared for missing pages, and there are none
		m.prepared.memory.absent.end()
	}
	if m.memory == nil {
		err = m.rise(m.prepared, s)
	} else {
		err = m.moveTo(m.prepared, s)
	}
	if err != nil {
		return 0, fmt.Errorf("adopt %s: %w", folder, err)
	}
	return m.goOn(), nil
}

// checkState reads a state and refuses any but that of this pause; a standby
// takes any of its guest's.
func (m *machine) checkState(state []byte) (*cpuState, error) {
	s, err := decodeState(state)
	if err != nil {
		return nil, err
	}
	if s.seed != m.spec.Seed || s.workload != m.spec.Workload || s.pages != uint64(m.spec.Memory/PageSize) {
		return nil, errors.New("the state is another guest's")
	}
	if m.memory != nil && s.pauses != m.pauses {
		return nil, fmt.Errorf("the state is of pause %d, and this is pause %d", s.pauses, m.pauses)
	}
	return s, nil
}

// moveTo has the guest go on with the memory and disk of p, and the state s. ctl
// is held and the gate closed. What fails leaves it where it is.
func (m *machine) moveTo(p *place, s *cpuState) error {
	if err := p.memory.absent.look(p.memory); err != nil {
		return err
	}
	if err := m.work.load(s); err != nil {
		return err
	}
	if m.disk != nil {
		if err := m.disk.HandOver(p.disk); err != nil {
			return err
		}
	}
	if err := m.app.load(s, p.disk); err != nil {
		return err
	}
	p.memory.takeOver()
	p.memory.trace, m.memory.trace = m.memory.trace, nil
	m.ran = time.Duration(s.ran)
	m.steps.Store(s.steps)
	m.acked.Store(s.acked)
	former := &place{folder: m.memory.Folder(), memory: m.memory, disk: m.disk}
	m.memory, m.disk, m.prepared = p.memory, p.disk, nil
	m.where.Store(&p.folder)
	m.background.Go(func() {
		if err := m.app.ledger.verify(m.spec.Seed); err != nil {
			m.fail(err)
		}
		former.close()
	})
	return nil
}

// Mirror implements Control.
func (m *machine) Mirror(_ context.Context, path string) error {
	m.ctl.Lock()
	defer m.ctl.Unlock()
	if m.disk == nil {
		return errors.New("mirror: the guest has no disk of its own")
	}
	return m.disk.MirrorTo(path)
}

// Resend implements Control.
func (m *machine) Resend(ctx context.Context) error { return m.clients.resend(ctx) }

// Status implements Control. It waits for nothing: a guest that stands at a missing
// page answers too.
func (m *machine) Status(context.Context) (Status, error) {
	s := Status{Folder: *m.where.Load(), Running: !m.standing.Load(), Steps: m.steps.Load(), Late: m.late.Load(), Acked: m.acked.Load()}
	s.Clients, s.Dropped = m.clients.count()
	if f := m.fault.Load(); f != nil {
		s.Fault = *f
	}
	return s, nil
}

// IsOn implements Steered.
func (m *machine) IsOn(folder string) error {
	if at := *m.where.Load(); folder != "" && folder != at {
		return fmt.Errorf("the guest runs on %s, not on %s any more", at, folder)
	}
	return nil
}
