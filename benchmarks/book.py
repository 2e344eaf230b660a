"""The book's way: chapter 8's programs in plain Keras, one row of the comparison at a time.

Nothing here uses the project. As in the book, `image_dataset_from_directory` reads the images from
folders and decodes them again in each epoch, and the frozen VGG16 runs again in each epoch.
The last printed line is a JSON object with the measurements.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.utils import image_dataset_from_directory

SIZE = (180, 180)


class Seconds(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """The seconds of each epoch, training and validation."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs.append(time.perf_counter() - self.began)


def augmentation() -> keras.Sequential:
    """Listing 8.14."""
    return keras.Sequential(
        [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.2)]
    )


def mnist(digits: Path) -> tuple[keras.Model, Any, Any, Any]:
    """Listings 8.1 to 8.3. A tenth of the digits is held out to choose the epoch, as in ours."""
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(32, 3, activation="relu")(inputs)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(128, 3, activation="relu")(x)
    outputs = layers.Dense(10, activation="softmax")(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with np.load(digits) as arrays:
        x_train, y_train, x_test, y_test = (
            arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")
        )
    x_train = x_train.reshape(-1, 28, 28, 1).astype("float32") / 255
    x_test = x_test.reshape(-1, 28, 28, 1).astype("float32") / 255
    held = len(x_train) // 10
    train = tf_batches(x_train[held:], y_train[held:], 64)
    return model, train, tf_batches(x_train[:held], y_train[:held], 64), (x_test, y_test)


def tf_batches(x: np.ndarray, y: np.ndarray, size: int) -> Any:
    """Return shuffled batches of arrays in memory, as `fit` makes them."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(size).prefetch(2)


def convnet(augmented: bool) -> keras.Model:
    """Listings 8.7 and 8.16."""
    inputs = keras.Input((*SIZE, 3))
    x = augmentation()(inputs) if augmented else inputs
    x = layers.Rescaling(1 / 255)(x)
    for filters in (32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(256, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.5)(x) if augmented else x
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    return model


def backbone(weights: Path | None) -> keras.Model:
    """Listing 8.19. Without a file the weights are random, and take the same time."""
    base = keras.applications.vgg16.VGG16(weights=None, include_top=False, input_shape=(*SIZE, 3))
    if weights:
        base.load_weights(weights)
    return base


def on_backbone(base: keras.Model, fine_tuned: bool) -> keras.Model:
    """Listing 8.24, or listings 8.27 and 8.28 if fine-tuned."""
    base.trainable = fine_tuned
    if fine_tuned:
        for layer in base.layers[:-4]:
            layer.trainable = False
    inputs = keras.Input((*SIZE, 3))
    x = augmentation()(inputs)
    x = base(keras.applications.vgg16.preprocess_input(x))
    x = layers.Dense(256)(layers.Flatten()(x))
    x = layers.Dropout(0.5)(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    optimizer = keras.optimizers.RMSprop(1e-5) if fine_tuned else "rmsprop"
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


def feature_head() -> keras.Model:
    """Listing 8.21."""
    inputs = keras.Input((5, 5, 512))
    x = layers.Dense(256)(layers.Flatten()(inputs))
    x = layers.Dropout(0.5)(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    return model


def features(base: keras.Model, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Listing 8.20."""
    found, labels = [], []
    for batch, label in images:
        found.append(base.predict(keras.applications.vgg16.preprocess_input(batch), verbose=0))
        labels.append(label)
    return np.concatenate(found), np.concatenate(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    rows = ("mnist", "scratch", "augmented", "features", "augmented_head", "fine_tune")
    parser.add_argument("row", choices=rows)
    parser.add_argument("--images", type=Path, help="with train/, validation/ and test/")
    parser.add_argument("--digits", type=Path, help="an mnist.npz")
    parser.add_argument("--weights", type=Path, help="VGG16 without its top (default: random)")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--test", action="store_true", help="score the best epoch on test/")
    given = parser.parse_args()
    keras.utils.set_random_seed(given.seed)
    test: Any = None
    if given.row == "mnist":
        model, train, validation, test = mnist(given.digits)
    else:
        splits = ("train", "validation", "test")
        train, validation, test = (
            image_dataset_from_directory(given.images / split, image_size=SIZE, batch_size=32)
            for split in splits
        )
    measured: dict[str, Any] = {}
    if given.row == "features":
        base = backbone(given.weights)
        began = time.perf_counter()
        arrays = [features(base, images) for images in (train, validation, test)]
        measured["extraction"] = time.perf_counter() - began
        measured["images"] = sum(len(labels) for _, labels in arrays)
        train, validation, test = arrays
        model = feature_head()
    elif given.row in ("augmented_head", "fine_tune"):
        model = on_backbone(backbone(given.weights), given.row == "fine_tune")
    elif given.row != "mnist":
        model = convnet(given.row == "augmented")
    seconds = Seconds()
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.keras"
        checkpoint = keras.callbacks.ModelCheckpoint(
            best, save_best_only=True, monitor="val_loss", verbose=0
        )
        inputs = train if isinstance(train, tuple) else (train,)
        history = model.fit(
            *inputs,
            epochs=given.epochs,
            validation_data=validation,
            callbacks=[checkpoint, seconds],
            verbose=2,
        ).history
        measured |= {"epochs": seconds.epochs, "history": history}
        if given.test:
            scored = test if isinstance(test, tuple) else (test,)
            loss, accuracy = keras.models.load_model(best).evaluate(*scored, verbose=0)
            measured |= {"test_loss": loss, "test_accuracy": accuracy}
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
