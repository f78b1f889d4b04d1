;; world: wrong-import
;; instead: wrong.wit
;; Imports the right function with the wrong type.
(import "gapura:plugin/log@0.1.0" "write" (func $write (param i32)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (result i32)
  (call $write (i32.const 0))
  (i32.const 0))
