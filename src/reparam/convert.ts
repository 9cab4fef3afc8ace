import { type Module, mapModules, type Parameter } from "../nn/index.ts";
import { isReparameterizable, isTrainingOnly } from "./contract.ts";
import { mustBeInEvaluationMode } from "./evaluation-mode.ts";

/** What became of one block. */
export interface ConversionEntry {
  readonly path: string;
  /** Class of the block. */
  readonly block: string;
  readonly merged: boolean;
  /** What was merged or left out, or why not. */
  readonly note: string;
}

export interface ConvertOptions {
  /**
   * Copies the values that are not merged, so that the result is independent of the original even where both are
   * changed in place from outside. Default false: they are shared until one of the two gets other values.
   */
  readonly copy?: boolean;
  /** Is told of every block, in tree order. */
  readonly explain?: (entry: ConversionEntry) => void;
}

/**
 * The inference form of a model without computing any values: every block that can be merged is replaced by its
 * equivalent, with parameters that are derived when they are read, and what only training uses is left out. For loading deploy-form checkpoints and for
 * conversion as a stream; see {@link convertToDeploy} for the ordinary case.
 */
export function deployForm<M extends Module>(model: M, explain?: ConvertOptions["explain"]): M {
  return mapModules(model, {
    module: (module, path) => {
      const block = module.constructor.name;
      if (path && isTrainingOnly(module)) {
        explain?.({ path, block, merged: true, note: `left out: ${module.trainingOnly}` });
        return null;
      }
      if (!isReparameterizable(module)) return undefined;
      const merge = module.merge();
      const merged = "merged" in merge;
      explain?.({ path, block, merged, note: merged ? merge.note : merge.kept });
      // Either way everything below was the block's to decide: what is returned is not looked into.
      return merged ? merge.merged : module;
    },
  });
}

/**
 * Merges every block of a model that has an inference form, wherever it stands in the module tree, and returns a new
 * model; the given one is not changed and can be trained on. Converting a converted model changes nothing.
 *
 * @throws `convert/training` when the model (or a part of it) is in training mode: batch statistics cannot be merged
 */
export function convertToDeploy<M extends Module>(model: M, { copy = false, explain }: ConvertOptions = {}): M {
  const reason = "where batch norm uses batch statistics, so there is no equal merged form";
  mustBeInEvaluationMode("convert", model, "the model", reason);
  model.initialize();
  const deploy = deployForm(model, explain);
  for (const [, p] of deploy.state()) resolve(p, copy);
  return deploy;
}

/** Computes a derived parameter's values now and keeps them. */
function resolve(p: Parameter, copy: boolean): void {
  const tensor = p.data;
  p.set(copy ? tensor.clone() : tensor);
}
