package lease

// Where explorations begin: each is what a few steps in which nothing goes wrong
// lead to.

// run does steps, and then lets time pass with all messages arriving.
func (w *world) run(m *model, steps ...step) {
	w.runApart(m, func(Message) bool { return false }, steps...)
}

// runApart is run in which some messages are lost.
func (w *world) runApart(m *model, lost func(Message) bool, steps ...step) {
	do := func(s step) {
		if err := w.do(m, s); err != nil {
			panic(err)
		}
	}
	for _, s := range steps {
		do(s)
	}
	clear := func() {
		for m.dues > 0 {
			if lost(m.due[0]) {
				do(step{kind: lose})
			} else {
				do(step{kind: arrive})
			}
		}
	}
	for range 6 {
		clear()
		do(step{kind: tick})
	}
	clear()
}

// paired: A runs the VM and B is in sync.
func paired() model {
	w := world{}
	m := cold(budget{changes: 1})
	w.run(&m)
	w.run(&m, step{kind: ship, p: uint8(HostA)}, step{kind: place, p: uint8(HostB)}, step{kind: synced, p: uint8(HostA)})
	return m
}

// unprotected: B has what it had, and A does not wait for it any more.
func unprotected() model {
	w := world{}
	m := paired()
	m.left.changes = 1
	w.run(&m, step{kind: alone, p: uint8(HostA)})
	return m
}

// given: A has handed the VM to B and keeps what it had.
func given() model {
	w := world{}
	m := paired()
	m.left.planned = 1
	w.run(&m, step{kind: hand, p: uint8(HostA)})
	w.run(&m, step{kind: retain, p: uint8(HostA)})
	return m
}

func begins(left budget, starts ...model) []model {
	for i := range starts {
		starts[i].left = left
	}
	return starts
}

// complete: A runs unprotected no more, and B holds all again; nobody has said so
// yet.
func complete() model {
	w := world{}
	m := unprotected()
	m.left.changes = 1
	w.run(&m, step{kind: protect, p: uint8(HostA)}, step{kind: ship, p: uint8(HostA)}, step{kind: place, p: uint8(HostB)})
	return m
}

// cutOff: A heard nothing for so long that B has the VM, and has released output
// that A knows nothing of. A stands, and does not know yet.
func cutOff() model {
	w := world{}
	m := paired()
	apart := func(msg Message) bool { return msg.From == HostA || msg.To == HostA }
	w.runApart(&m, apart)
	m.left.changes = 1
	w.runApart(&m, apart, step{kind: alone, p: uint8(HostB)})
	w.runApart(&m, apart, step{kind: release, p: uint8(HostB)})
	return m
}
