package lab

import "github.com/vpclab/vpclab/emu/bgp"

// Configs is what each router's speaker was last told, by node.
func (l *Lab) Configs() map[string]bgp.Config { return l.speakers.configs() }
