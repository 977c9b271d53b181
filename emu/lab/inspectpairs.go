package lab

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/hypervisor"
)

func (i *inspection) pairs(ctx context.Context) error {
	for _, vm := range i.lab.pairs.names() {
		s, err := i.lab.PairStatus(ctx, vm)
		if err != nil {
			return err
		}
		i.report.Pairs = append(i.report.Pairs, s)
	}
	return nil
}

func (r *Report) pairTable(w io.Writer) {
	t := Table("Protected VMs", "VM", "mode", "seat at", "role", "lease", "port", "in sync", "epochs", "holds", "bytes sent", "witness", "trouble")
	for _, p := range r.Pairs {
		for i, s := range p.Seats {
			if s == nil {
				t.AppendRow(table.Row{p.VM, p.Mode, p.Hosts[i], "", "", "", "", "", "", "", p.Witness, p.Errors[i]})
				continue
			}
			t.AppendRow(table.Row{p.VM, p.Mode, s.Host, s.Role, s.Gen, upWord(s.Port), syncWord(s), epochs(s), age(s), sent(s), p.Witness, s.Failure})
		}
	}
	show(w, t)
}

func upWord(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func syncWord(s *hypervisor.SeatStatus) string {
	switch {
	case s.InSync:
		return "yes"
	case s.Alone:
		return "unprotected"
	}
	return "no"
}

func epochs(s *hypervisor.SeatStatus) string {
	if s.Replica == nil {
		return ""
	}
	return fmt.Sprint(s.Replica.Epochs)
}

// age is how old what the standby holds is.
func age(s *hypervisor.SeatStatus) string {
	if s.Replica == nil || s.Replica.LastAt == 0 {
		return ""
	}
	return event.Now().Sub(s.Replica.LastAt).Round(time.Millisecond).String() + " old"
}

func sent(s *hypervisor.SeatStatus) string {
	if s.Replica == nil || s.Replica.Bytes == 0 {
		return ""
	}
	return fmt.Sprint(s.Replica.Bytes)
}
