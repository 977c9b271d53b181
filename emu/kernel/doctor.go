package kernel

import "context"

// Check is one line of what `vpclab doctor` found.
type Check struct {
	Substrate string `json:"substrate"` // host, uml, or "" for what any needs
	Name      string `json:"name"`
	OK        bool   `json:"ok"`
	Optional  bool   `json:"optional,omitempty"` // missing it takes something away, but the substrate works
	Detail    string `json:"detail"`
	Fix       string `json:"fix,omitempty"`
}

// Doctor looks at this machine. It changes nothing.
func Doctor(ctx context.Context) []Check { return nil }
