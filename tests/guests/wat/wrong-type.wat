;; world: wrong-type
;; instead: wrong.wit
;; Exports the right function with the wrong type.
(func (export "gapura:plugin/request-validation@0.1.0#validate") (result i32)
  (i32.const 0))
