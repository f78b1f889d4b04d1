;; world: validator
;; Logs a panic's message and traps, as the SDK does.
(import "gapura:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(data (i32.const 1024) "panicked at src/lib.rs:7: index out of bounds")
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (call $log (i32.const 3) (i32.const 1024) (i32.const 45))
  (unreachable))
