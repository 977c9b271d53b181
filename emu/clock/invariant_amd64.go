package clock

// Invariant tells whether the processor's time stamp counter runs at one rate,
// whatever the processor does, by its own word (CPUID 8000_0007, EDX bit 8).
func Invariant() bool { return invariant() }
