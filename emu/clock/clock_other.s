// This file lets clock.go declare a function without a body where there is no
// other assembly.
